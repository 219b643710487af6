// The table of points: sorted by a click on a header, or Enter on it.

const TITLES = { run_s: "took (s)", attempts: "attempts", cause: "cause", verdict: "against the earlier grid" };
const varied = (each) => each.levels.length > 1;
const used = (each) => each.values.some((value) => value !== null && value !== "");
const tableColumns = [
  ...columns.slice(0, 2), ...keys, ...metrics, ...texts,
  ...others.filter((each) => ({
    device: varied(each), seed: varied(each) && !keys.some((key) => key.name === "seed"), run_s: used(each),
    attempts: each.values.some((value) => value > 1), verdict: used(each), cause: used(each),
  })[each.name]),
];
let rows = [];

function setUpTable() {
  const heads = tableColumns.map((each, at) => {
    const arrow = html("span", { class: "arrow", "aria-hidden": "true" });
    const title = others.includes(each) ? TITLES[each.name] ?? each.name : each.name;
    const button = html("button", { type: "button" }, title, arrow);
    button.addEventListener("click", () => sortTable(at));
    return html("th", { scope: "col", class: each.numeric ? "number" : null }, button);
  });
  const cells = (index) => tableColumns.map((each) => cell(each, index));
  rows = INDICES.map((index) => html("tr", {}, ...cells(index), files(index)));
  const table = html("table", {}, html("caption", {}, "One row a point. Click on a header to sort."),
    html("colgroup", {}, ...tableColumns.map(() => html("col"))),
    html("thead", {}, html("tr", {}, ...heads, html("th", { scope: "col" }, html("b", {}, "files")))),
    html("tbody", {}, ...rows));
  const section = document.getElementById("points");
  section.hidden = false;
  section.querySelector(".wide").append(table);
}

function cell(each, index) {
  const value = each.values[index];
  if (each === columns[0]) return nameCell(index);
  if (each === columns[1]) {
    return html("td", {}, html("span", { class: `state s-${value}` }, value.replaceAll("_", " ")));
  }
  const words = show(value);
  const long = words.length > 40;
  return html("td", { class: each.numeric ? "number" : long ? "long" : null, title: long ? words : null }, words);
}

function nameCell(index) {
  const [folder, name] = [data.folder[index], data.name[index]];
  const words = folder === null ? name : html("a", { href: `${folder}/` }, name);
  return html("th", { scope: "row", title: name }, words);
}

function files(index) {
  const folder = data.folder[index];
  const names = folder === null ? [] : ["README.md", "log.out", "log.err"];
  const links = names.flatMap((name) => [html("a", { href: `${folder}/${name}` }, name), " "]);
  return html("td", { class: "files" }, ...links);
}

// NaN and what is missing come last, whichever way is up.
const isLast = (value) => value === null || value === "" || Number.isNaN(value);

function order(values, sign) {
  return (a, b) => {
    const [left, right] = [values[a], values[b]];
    if (isLast(left) || isLast(right)) return isLast(left) - isLast(right) || a - b;
    const both = isNumber(left) && isNumber(right);
    const words = () => String(left).localeCompare(String(right), "en", { numeric: true });
    const found = both ? Math.sign(left - right) || 0 : words();
    return sign * found || a - b;
  };
}

function sortTable(at) {
  const heads = [...document.querySelectorAll("#points thead th")];
  const ascending = heads[at].getAttribute("aria-sort") !== "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[at].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const sorted = [...INDICES].sort(order(tableColumns[at].values, ascending ? 1 : -1));
  document.querySelector("#points tbody").append(...sorted.map((index) => rows[index]));
}

function drawTable(shown) {
  const kept = new Set(shown);
  rows.forEach((row, index) => { row.hidden = !kept.has(index); });
  document.querySelectorAll("#points col").forEach((each, at) => {
    each.className = tableColumns[at] === chosen.metric ? "chosen" : "";
  });
}
