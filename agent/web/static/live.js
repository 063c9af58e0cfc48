// Refreshes what changes every two seconds. The server makes the HTML; only what differs is exchanged, so that focus,
// selection and scroll positions stay, and a screen reader hears changes alone.
const main = document.querySelector("main[data-refresh]");
const lost = document.getElementById("lost");
const pause = document.getElementById("pause");

function sameKind(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName;
}

function patchAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

export function patch(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  patchAttributes(old, fresh);
  patchChildren(old, fresh);
}

function patchChildren(old, fresh) {
  const before = [...old.childNodes], after = [...fresh.childNodes];
  for (let i = 0; i < after.length; i++) {
    if (i >= before.length) old.append(after[i]);
    else if (sameKind(before[i], after[i])) patch(before[i], after[i]);
    else before[i].replaceWith(after[i]);
  }
  for (const extra of before.slice(after.length)) extra.remove();
}

let paused = false;

async function refresh() {
  if (paused || document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { "X-Refresh": "1" }, signal: AbortSignal.timeout(8000) });
    if (answer.status === 401) return location.reload();
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").body;
    if (!paused && !String(getSelection())) patchChildren(main, fresh);
    lost.textContent = "";
  } catch {
    if (lost.textContent === "") lost.textContent = lost.dataset.text;
  }
}

async function follow(every) {
  for (;;) {
    await new Promise((done) => setTimeout(done, every));
    await refresh();
  }
}

if (main) {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? pause.dataset.resume : pause.dataset.pause;
    pause.setAttribute("aria-pressed", String(paused));
    if (!paused) refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  follow(Number(main.dataset.refresh));
}
