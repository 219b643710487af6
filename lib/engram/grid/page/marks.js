// What plots are made of: elements, scales, colors, axes, and the tip that follows the pointer.

const SVG = "http://www.w3.org/2000/svg";
// viridis of matplotlib, at ten places; between them, straight lines.
const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
// Okabe and Ito's colors, for values without an order.
const DISTINCT = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7a00", "#777777"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const printing = matchMedia("print");

function element(make, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) make.setAttribute(name, value);
  }
  // Strings become text nodes: nothing of a user is ever read as HTML.
  make.append(...children);
  return make;
}

const html = (tag, attributes = {}, ...children) => element(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => element(document.createElementNS(SVG, tag), attributes, children);
const text = (x, y, words, attributes = {}) => svg("text", { x, y, ...attributes }, words);
const centered = { "text-anchor": "middle" };
const centeredName = { "text-anchor": "middle", class: "name" };
const line = (x1, y1, x2, y2, attributes = {}) => svg("line", { x1, y1, x2, y2, ...attributes });

// A drawing of so many pixels, which shrinks with the page.
const drawing = (width, height, spoken, ...children) =>
  svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": spoken }, ...children);

// ---- scales

function extent(values) {
  const finite = values.filter(Number.isFinite);
  return finite.length ? [Math.min(...finite), Math.max(...finite)] : null;
}

// Logarithms need positive numbers.
const canLog = (range) => range !== null && range[0] > 0;

// Whether a key's numbers spread over powers of ten, most of them near the low end.
function spreadsWide(values) {
  const range = extent(values);
  if (!canLog(range) || range[1] / range[0] < 100) return false;
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  return (sorted[Math.floor(sorted.length / 2)] - range[0]) / (range[1] - range[0]) < 0.2;
}

// Maps [low, high] to [from, to]; a range of one value lies in the middle.
function scale([low, high], [from, to], log = false) {
  const turn = log ? Math.log10 : (value) => value;
  const [a, b] = [turn(low), turn(high)];
  const map = (value) => from + (to - from) * (a === b ? 0.5 : (turn(value) - a) / (b - a));
  map.ticks = (most) => (log ? logTicks(low, high) : null) ?? ticks(low, high, most);
  return map;
}

function ticks(low, high, most) {
  if (low === high) return [low];
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const found = [];
  const first = Math.ceil(low / step - 1e-9);
  // Counted: to a number beyond 2^53 one can be added for ever.
  for (let at = 0; at <= 2 * most && (first + at) * step <= high + step * 1e-9; at += 1) {
    found.push(Number(((first + at) * step).toPrecision(12)));
  }
  return found;
}

// Powers of ten, when there are two or more; at most six of them.
function logTicks(low, high) {
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  if (last <= first) return null;
  const step = Math.ceil((last - first + 1) / 6);
  const found = [];
  for (let power = first; power <= last; power += step) found.push(Number(`1e${power}`));
  return found;
}

function padded([low, high], log) {
  if (low === high && log) return [low / 2, high * 2];
  if (low === high) return [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
  if (log) return [low / (high / low) ** 0.06, high * (high / low) ** 0.06];
  return [low - (high - low) * 0.06, high + (high - low) * 0.06];
}

// ---- colors

const onDark = () => dark.matches && !printing.matches;

// Light yellow is lost on white, and dark violet on black.
function viridis(part) {
  const [from, to] = onDark() ? [0.22, 1] : [0, 0.93];
  const at = (from + (to - from) * Math.min(1, Math.max(0, part))) * (VIRIDIS.length - 1);
  const before = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const mixed = [0, 2, 4].map((place) => {
    const [a, b] = [before, before + 1].map((each) => parseInt(VIRIDIS[each].slice(place, place + 2), 16));
    return Math.round(a + (b - a) * (at - before));
  });
  return `rgb(${mixed.join(",")})`;
}

// The style of black or white words, whichever are read more easily on a color.
function inkOn(color) {
  const [red, green, blue] = color.match(/\d+/g).map((part) => (part / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "black" : "white";
}

// Colors of numbers on a scale.
function colors(range, log) {
  const place = scale(range, [0, 1], log && canLog(range));
  return (value) => viridis(place(value));
}

// A bar that says which color means what.
function colorBar(range, log, name) {
  const width = 200;
  const place = scale(range, [10, width - 10], log && canLog(range));
  const bar = drawing(width, 44, `colors from ${show(range[0])} to ${show(range[1])}`);
  bar.append(text(10, 10, cut(name, 34), { class: "name" }));
  for (let at = 0; at < 60; at += 1) {
    bar.append(svg("rect", { x: 10 + at * 3, y: 15, width: 3.2, height: 9, fill: viridis((at + 0.5) / 60) }));
  }
  for (const tick of place.ticks(4)) bar.append(text(place(tick), 36, show(tick), centered));
  return bar;
}

// ---- axes

function yAxis(place, left, right, name, top, bottom) {
  const group = svg("g", { class: "axis" });
  for (const tick of place.ticks(5)) {
    group.append(line(left, place(tick), right, place(tick), { class: "grid" }));
    group.append(text(left - 6, place(tick) + 3.5, show(tick), { "text-anchor": "end" }));
  }
  group.append(line(left, top, left, bottom));
  const middle = (top + bottom) / 2;
  const turned = { ...centeredName, transform: `rotate(-90 12 ${middle})` };
  group.append(text(12, middle, cut(name, Math.floor((bottom - top) / 6)), turned));
  return group;
}

function xAxis(place, left, right, bottom, name, most = 6) {
  const group = svg("g", { class: "axis" }, line(left, bottom, right, bottom));
  for (const tick of place.ticks(most)) {
    group.append(line(place(tick), bottom, place(tick), bottom + 3));
    group.append(text(place(tick), bottom + 15, show(tick), centered));
  }
  group.append(text((left + right) / 2, bottom + 32, name, centeredName));
  return group;
}

// The names of levels below an axis, turned when they would run into each other.
function levelNames(names, place, room, bottom) {
  const longest = Math.max(...names.map((name) => name.length));
  const turned = longest * 6.2 > room;
  return names.map((name, at) => {
    const short = cut(name, turned ? 13 : 40);
    const attributes = turned
      ? { "text-anchor": "end", transform: `rotate(-35 ${place(at)} ${bottom + 13})` }
      : centered;
    return text(place(at), bottom + 15, short, { ...attributes, "data-tip": name });
  });
}

const namesTurned = (names, room) => Math.max(...names.map((name) => name.length)) * 6.2 > room;

// A number in [-0.5, 0.5) that an index always gets, so that equal values can be told apart.
const jitter = (index) => ((index * 0.61803398875) % 1) - 0.5;

// ---- the tip

const tip = document.getElementById("tip");
document.addEventListener("pointerover", (event) => {
  const words = event.target.closest?.("[data-tip]")?.getAttribute("data-tip");
  tip.hidden = !words;
  tip.textContent = words ?? "";
});
document.addEventListener("pointermove", (event) => {
  if (tip.hidden) return;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 16;
  const top = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : below;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${top}px`;
});
