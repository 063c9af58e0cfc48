// Refreshes the page every two seconds. The server sends HTML, and only the nodes that differ are changed. So focus,
// selection and scroll positions stay, and a screen reader reads out only the changes.
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

// A key for a node. Old and new nodes with the same key are the same part of the page and are changed in place.
function partOf(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return node.nodeName;
  const names = [node.id, node.dataset.key, node.getAttribute("aria-labelledby"), node.getAttribute("href")];
  return [node.nodeName, ...names].join(" ");
}

// Most changes add or remove nodes in one place, so the equal nodes before and after that place are patched in place.
function patchChildren(old, fresh) {
  const before = [...old.childNodes], after = [...fresh.childNodes];
  const most = Math.min(before.length, after.length);
  let head = 0, tail = 0;
  while (head < most && partOf(before[head]) === partOf(after[head])) head++;
  while (tail < most - head && partOf(before.at(-1 - tail)) === partOf(after.at(-1 - tail))) tail++;
  const end = tail ? before[before.length - tail] : null;
  for (let i = 0; i < head; i++) patch(before[i], after[i]);
  for (let i = 1; i <= tail; i++) patch(before.at(-i), after.at(-i));
  const leaving = before.slice(head, before.length - tail), coming = after.slice(head, after.length - tail);
  for (const [i, node] of coming.entries()) {
    if (i >= leaving.length) old.insertBefore(node, end);
    else if (sameKind(leaving[i], node)) patch(leaving[i], node);
    else leaving[i].replaceWith(node);
  }
  for (const extra of leaving.slice(coming.length)) extra.remove();
}

// Changes the page. Afterwards the same element has the focus, even if its place has changed.
function exchange(fresh) {
  const focused = document.activeElement, part = main.contains(focused) ? partOf(focused) : "";
  patchChildren(main, fresh);
  if (!part || (focused.isConnected && partOf(focused) === part)) return;
  const again = [...main.querySelectorAll(focused.nodeName)].find((one) => partOf(one) === part);
  if (again) again.focus({ preventScroll: true });
}

let paused = false;

async function refresh() {
  if (paused || document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { "X-Refresh": "1" }, signal: AbortSignal.timeout(8000) });
    if (answer.status === 401) return location.reload();
    const fresh = document.createElement("template"); // a parsed document would drop leading whitespace
    fresh.innerHTML = await answer.text();
    if (!paused && !String(getSelection())) exchange(fresh.content);
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
