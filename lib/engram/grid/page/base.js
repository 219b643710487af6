// The points by columns, what of them is shown, and all statistics.

const data = JSON.parse(document.getElementById("data").textContent);
const COUNT = data.name.length;
const INDICES = Array.from({ length: COUNT }, (_, index) => index);
const MOST_LEVELS = 24;

// NaN and the infinities arrive as ["NaN"], since JSON has no word for them.
const decoded = (values) => values.map((value) => (Array.isArray(value) ? Number(value[0]) : value));
const isNumber = (value) => typeof value === "number";
const identity = (value) => `${typeof value}:${value}`;

function column(name, values, more = {}) {
  const known = decoded(values);
  const present = known.filter((value) => value !== null);
  const numeric = present.length > 0 && present.every(isNumber);
  return { name, values: known, numeric, levels: levelsOf(known, numeric), wide: spreadsWide(known), ...more };
}

// The distinct values: numbers in order, others as the grid first has them, none at all last.
function levelsOf(values, numeric) {
  const distinct = [...new Map(values.map((value) => [identity(value), value])).values()];
  const present = distinct.filter((value) => value !== null);
  if (numeric) present.sort((a, b) => a - b);
  else if (present.every((value) => typeof value === "boolean")) present.sort();
  return distinct.length > present.length ? [...present, null] : present;
}

const keys = data.keys.map((key) => column(key.name, key.values, { repeat: key.repeat }));
const metrics = data.metrics.map((metric) => column(metric.name, metric.values));
const texts = data.texts.map((text) => column(text.name, text.values));
const plain = (name, values) => column(name, values ?? data[name]);
const others = [plain("device"), plain("seed"), plain("run_s"), plain("attempts"), plain("verdict"), plain("cause")];
const columns = [plain("name"), plain("state"), ...keys, ...metrics, ...texts, ...others];

// What the user has chosen.
const chosen = {
  metric: metrics.find((metric) => metric.name === data.metric) ?? null,
  log: false,
  filter: "",
  brushes: new Map(), // column -> whether an index is inside
};

// ---- statistics, here and nowhere else

// Mean and standard error of the finite numbers among values; `odd` counts NaN and infinities.
// The standard error is the sample standard deviation (n - 1) divided by sqrt(n); of one value
// there is none.
function summarize(values) {
  const finite = values.filter(Number.isFinite);
  const n = finite.length;
  const odd = values.filter(isNumber).length - n;
  const mean = n ? finite.reduce((sum, value) => sum + value / n, 0) : NaN;
  const squares = finite.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { n, odd, mean, se: n > 1 ? Math.sqrt(squares / (n - 1) / n) : NaN };
}

// The metric of some points, split by what `keyOf` says of each.
function groups(indices, keyOf) {
  const found = new Map();
  for (const index of indices) {
    const key = keyOf(index);
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(index);
  }
  return found;
}

const metricOf = (indices) => indices.map((index) => chosen.metric.values[index]);

// ---- which points are shown

function tokenTest(token) {
  const text = token.toLowerCase();
  const word = (index) =>
    columns.some((each) => each.values[index] !== null && show(each.values[index]).toLowerCase().includes(text));
  const parts = /^([^<>=!]+)(<=|>=|!=|<|>|=)(.+)$/.exec(token);
  if (!parts) return word;
  const [, name, sign, right] = parts;
  const left = columns.find((each) => each.name === name) ??
    columns.find((each) => each.name.endsWith(`.${name}`));
  if (!left) return word;
  // Names of points look like comparisons, too: "lr=0.1,seed=2".
  const named = (index) => sign === "=" && data.name[index].toLowerCase().includes(text);
  return (index) => compare(left.values[index], sign, right) || named(index);
}

function compare(value, sign, text) {
  if (value === null) return false;
  const right = Number(text);
  const same = isNumber(value) ? Object.is(value, right) || value === right : String(value) === text;
  if (sign === "=") return same;
  if (sign === "!=") return !same;
  const a = isNumber(value) ? value : String(value);
  const b = isNumber(value) ? right : text;
  return sign === "<" ? a < b : sign === ">" ? a > b : sign === "<=" ? a <= b : a >= b;
}

const filtered = () => {
  const tests = chosen.filter.split(/\s+/).filter(Boolean).map(tokenTest);
  return INDICES.filter((index) => tests.every((test) => test(index)));
};

const brushed = (indices) =>
  indices.filter((index) => [...chosen.brushes.values()].every((inside) => inside(index)));

// ---- words and numbers

function show(value, digits = 5) {
  if (value === null || value === undefined) return "";
  if (!isNumber(value)) return String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "inf" : "-inf";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value);
  const size = Math.abs(value);
  const text = size < 1e-4 || size >= 1e6 ? value.toExponential(digits - 1) : value.toPrecision(digits);
  // 0.50000 is 0.5, and 1.0000e-5 is 1e-5.
  return text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "").replace("e+", "e");
}

const label = (value) => (value === null ? "not set" : show(value));
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const cut = (text, most) => (text.length > most ? `${text.slice(0, Math.max(1, most - 1))}\u2026` : text);

function describe(statistics) {
  const { n, odd, mean, se } = statistics;
  const spread = n > 1 ? ` \u00b1 ${show(se, 3)}` : "";
  const left = odd ? `, ${odd} not finite left out` : "";
  return n ? `${show(mean)}${spread} (n = ${n}${left})` : `no finite value${odd ? ` (${odd} NaN or infinite)` : ""}`;
}
