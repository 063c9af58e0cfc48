// Draws charts from the tables of a page. Every number in a chart is also in its table.
const NARROW = /[\u2009\u202f,]/g;
const charts = [];

const STEPS = [1, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440].map((minutes) => minutes * 60); // whole minutes, so that no two labels are equal

// The label of a tick on the y axis, with up to six decimals.
function tickText(tick) {
  return tick.toLocaleString("en-GB", { maximumFractionDigits: 6 }).replace(/,/g, "\u2009");
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function valueOf(cell) {
  const text = cell ? cell.textContent.replace(NARROW, "").trim() : "";
  return text === "" || text === "–" ? null : Number(text);
}

function rowsOf(figure) {
  const table = document.getElementById(figure.dataset.table);
  return table ? [...table.tBodies[0].rows] : [];
}

function readCurve(figure) {
  return rowsOf(figure).map((row) => ({
    from: Number(row.dataset.t), to: Number(row.dataset.e), at: row.cells[0].textContent,
    mean: valueOf(row.querySelector(".m")), low: valueOf(row.querySelector(".lo")), high: valueOf(row.querySelector(".hi")),
    doubtful: row.dataset.d === "1",
    gaps: (row.dataset.g || "").split(" ").filter(Boolean).map((one) => {
      const [reason, ms, whole] = one.split(":");
      return { reason, ms: Number(ms), whole: Number(whole) };
    }),
    text: [...row.cells].map((cell) => cell.textContent.trim()).filter(Boolean).join(", "),
  }));
}

// Turns rows into a step curve: a constant value from the start of an interval to its end, null where data are missing.
function steps(rows) {
  const x = [], mean = [], low = [], high = [], doubtful = [];
  const put = (at, a, b, c, d) => { x.push(at); mean.push(a); low.push(b); high.push(c); doubtful.push(d); };
  let end = null;
  for (const row of rows) {
    if (end !== null && row.from > end) put(end, null, null, null, null);
    put(row.from, row.mean, row.low, row.high, row.doubtful ? row.mean : null);
    put(row.to - 0.001, row.mean, row.low, row.high, row.doubtful ? row.mean : null);
    end = row.to;
  }
  return [x, mean, low, high, doubtful];
}

const BAND = 14; // height in pixels of the band that shows gaps under the curve

function drawBand(u, rows, figure) {
  const ctx = u.ctx, ratio = devicePixelRatio || 1, height = BAND * ratio;
  const top = u.bbox.top + u.bbox.height - height;
  ctx.save();
  ctx.beginPath();
  ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  ctx.clip();
  const until = Number(figure.dataset.until);
  const right = u.valToPos(Number(figure.dataset.to), "x", true), left = u.valToPos(until, "x", true);
  if (left < right) { // shade the part of the day that is still to come
    ctx.globalAlpha = 0.12;
    ctx.fillStyle = css("--soft");
    ctx.fillRect(left, u.bbox.top, right - left, u.bbox.height);
  }
  for (const row of rows) {
    const from = u.valToPos(row.from, "x", true), width = Math.max(u.valToPos(row.to, "x", true) - from, ratio);
    const length = (row.to - row.from) * 1000;
    let base = top + height;
    for (const gap of row.gaps) {
      const color = css(`--r-${gap.reason}`) || css("--band");
      const all = Math.min(1, gap.ms / length) * height, whole = Math.min(1, gap.whole / length) * height;
      ctx.fillStyle = color;
      ctx.globalAlpha = 0.45; // gaps in which only single points are missing are pale
      ctx.fillRect(from, base - Math.max(all, 2 * ratio), width, Math.max(all, 2 * ratio));
      ctx.globalAlpha = 1; // gaps of the whole device have the full colour
      ctx.fillRect(from, base - whole, width, whole);
      base = Math.max(top, base - all);
    }
  }
  ctx.restore();
}

// The range of the x axis is the whole day. If less than a sixth of the day has data, the range is only that part with
// a margin, because that part would be too narrow on the scale of a whole day.
function extent(figure, rows) {
  const from = Number(figure.dataset.from), to = Number(figure.dataset.to);
  // the gaps of a silent device reach beyond the last sealed interval
  const until = Math.max(Number(figure.dataset.until), rows.length ? rows.at(-1).to : 0);
  const first = rows.length ? rows[0].from : from, span = until - first;
  if (until >= to || !rows.length || span > (to - from) / 6) return [from, to];
  return [Math.max(from, first - span * 0.1 - 60), Math.min(to, until + span * 0.1 + 60)];
}

function clock(zone) {
  const format = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", timeZone: zone });
  return (seconds) => format.format(new Date(seconds * 1000));
}

function drawCurve(figure) {
  const rows = readCurve(figure), data = steps(rows), at = clock(figure.dataset.zone);
  const ink = css("--ink"), grid = css("--line"), accent = css("--accent"), warn = css("--warn");
  const hasBand = rows.some((row) => row.low !== null && row.high !== null);
  const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
  const unit = figure.dataset.unit, whole = extent(figure, rows);
  const zoomed = (u) => u.select && u.select.width > 0;
  const options = {
    width: figure.clientWidth, height: Math.min(320, Math.max(200, figure.clientWidth * 0.36)),
    tzDate: (seconds) => window.uPlot.tzDate(new Date(seconds * 1000), figure.dataset.zone),
    scales: {
      x: { time: true, range: (u, low, high) => (zoomed(u) ? [low, high] : whole) },
      y: { range: (u, low, high) => room(low, high) },
    },
    axes: [
      { ...axis, values: (u, ticks) => ticks.map((tick) => at(tick)), space: 56, incrs: STEPS },
      { ...axis, size: 64, label: unit, labelSize: 20, values: (u, ticks) => ticks.map(tickText) },
    ],
    series: [
      { value: (u, seconds) => (seconds === null ? "–" : at(seconds)), label: figure.dataset.lang === "zh" ? "时间" : "time" },
      { label: figure.dataset.mean, stroke: accent, width: 2, spanGaps: false, points: { show: false }, value: (u, v) => (v === null ? "–" : `${v} ${unit}`) },
      { show: hasBand, stroke: "transparent", points: { show: false } },
      { show: hasBand, stroke: "transparent", points: { show: false } },
      { label: figure.dataset.doubtful, stroke: warn, width: 3, dash: [4, 4], spanGaps: false, points: { show: false }, value: (u, v) => (v === null ? "–" : `${v} ${unit}`) },
    ],
    bands: hasBand ? [{ series: [3, 2], fill: css("--range") }] : [],
    legend: { show: true, live: true },
    cursor: { drag: { x: true, y: false }, y: false },
    hooks: { draw: [(u) => drawBand(u, rows, figure)] },
  };
  const plot = new window.uPlot(options, data, figure);
  hideLegend(plot, [2, 3]);
  if (!rows.some((row) => row.doubtful)) hideLegend(plot, [4]);
  readByKeys(figure, rows, (row) => plot.setCursor({ left: plot.valToPos((row.from + row.to) / 2, "x"), top: 20 }));
  return plot;
}

function hideLegend(plot, numbers) {
  const entries = plot.root.querySelectorAll(".u-series");
  for (const n of numbers) if (entries[n]) entries[n].hidden = true;
}

// The range of the y axis, with room for the band under the curve. A flat curve also gets a range.
function room(low, high, below = 0.1) {
  if (low === null || high === null || !Number.isFinite(low)) return [0, 1];
  const bottom = Math.min(low, 0), top = Math.max(high, 0), span = top - bottom || 1;
  return [bottom - span * below, top + span * 0.06];
}

// The arrow keys select a row, and a screen reader reads it out.
function readByKeys(figure, rows, show) {
  const output = figure.nextElementSibling;
  let at = -1;
  figure.onkeydown = (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (event.key === "Home") at = 0;
    else if (event.key === "End") at = rows.length - 1;
    else if (move) at = Math.min(rows.length - 1, Math.max(0, at + move));
    else return;
    event.preventDefault();
    const row = rows[at];
    if (!row) return;
    show(row, at);
    output.textContent = row.text;
  };
}

function bars(figure, labels, columns, colors, height) {
  const shown = labels.map((_, i) => columns.map((column) => column[i]));
  const sums = shown.map((values) => values.map((_, i) => values.slice(0, i + 1).reduce((a, v) => (v === null ? a : (a || 0) + v), null)));
  const tops = columns.map((_, c) => sums.map((values) => values[c])).reverse();
  const x = labels.map((_, i) => i);
  const ink = css("--ink"), grid = css("--line");
  const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
  return new window.uPlot({
    width: figure.clientWidth, height,
    scales: { x: { time: false, range: [-0.6, labels.length - 0.4] }, y: { range: (u, low, high) => room(low, high, low < 0 ? 0.1 : 0) } },
    axes: [
      { ...axis, space: 20 + 7 * Math.max(...labels.map((one) => one.length)), incrs: [1, 2, 3, 4, 6, 12, 24, 48, 96, 168, 336, 720], values: (u, ticks) => ticks.map((tick) => labels[tick] ?? "") },
      { ...axis, size: figure.dataset.unit ? 64 : 52, label: figure.dataset.unit || null, labelSize: 20, values: (u, ticks) => ticks.map(tickText) },
    ],
    series: [{}, ...tops.map((_, i) => ({ fill: colors[colors.length - 1 - i], stroke: "transparent", width: 0, paths: window.uPlot.paths.bars({ size: [0.8, 60] }), points: { show: false } }))],
    legend: { show: false }, cursor: { drag: { x: false, y: false }, y: false, points: { show: false } },
  }, [x, ...tops], figure);
}

function drawBars(figure) {
  const rows = rowsOf(figure);
  const values = rows.map((row) => (row.dataset.v ? Number(row.dataset.v) : null));
  return bars(figure, rows.map((row) => row.cells[0].textContent), [values], [css("--accent")], 130);
}

function drawStacked(figure) {
  const rows = rowsOf(figure), count = rows.length ? rows[0].cells.length - 1 : 0;
  const columns = [...Array(count).keys()].map((c) => rows.map((row) => Number(row.cells[c + 1].dataset.v)));
  const colors = columns.map((_, c) => css(`--s-${c}`));
  const names = rows.length ? [...rows[0].closest("table").tHead.rows[0].cells].map((cell) => cell.textContent) : [];
  const plot = bars(figure, rows.map((row) => row.cells[0].textContent), columns, colors, 220);
  readByKeys(figure, rows.map((row) => ({
    text: [...row.cells].map((cell, c) => (c ? `${names[c]} ${cell.textContent} ${figure.dataset.unit}` : cell.textContent)).join(", "),
  })), (row, at) => plot.setCursor({ left: plot.valToPos(at, "x"), top: 20 }));
  return plot;
}

function draw() {
  while (charts.length) charts.pop().destroy();
  for (const [selector, make] of [["figure.chart", drawCurve], ["figure.bars", drawBars], ["figure.stacked", drawStacked]]) {
    for (const figure of document.querySelectorAll(selector)) {
      if (figure.clientWidth > 0) charts.push(make(figure));
    }
  }
  document.documentElement.dataset.charts = String(charts.length); // browser tests wait for this attribute
}

draw();
let width = innerWidth, later = 0;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(later);
  later = setTimeout(draw, 200);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
