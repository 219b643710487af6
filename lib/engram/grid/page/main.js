// Put it together: the bar at the top, and drawing everything anew whenever a choice changes.

const metricPick = document.getElementById("metric");
const filterField = document.getElementById("filter");

function refresh() {
  const candidates = filtered();
  const shown = brushed(candidates);
  const some = shown.length === COUNT ? "" : `${shown.length} of `;
  document.getElementById("shown").textContent = some + plural(COUNT, "point");
  document.getElementById("clear").hidden = !chosen.filter && chosen.brushes.size === 0;
  drawExtremes(shown);
  drawEffects(shown);
  drawPairs(shown);
  drawParallel(candidates);
  drawCurves(shown);
  drawTable(shown);
}

// The two ends of the metric; which one is the better, the reader knows.
function drawExtremes(shown) {
  const section = document.getElementById("extremes");
  const found = chosen.metric ? shown.filter((index) => Number.isFinite(chosen.metric.values[index])) : [];
  section.hidden = found.length === 0;
  if (!found.length) return;
  found.sort((a, b) => chosen.metric.values[a] - chosen.metric.values[b]);
  const all = summarize(metricOf(shown));
  const figure = (word, value, below) => html("div", {},
    html("span", {}, `${word} ${chosen.metric.name}`), html("b", {}, show(value)), html("span", {}, below));
  const end = (word, index) => figure(word, chosen.metric.values[index], data.name[index]);
  section.replaceChildren(end("highest", found.at(-1)), end("lowest", found[0]),
    figure("mean", all.mean, `over ${plural(all.n, "point")}`));
}

function sayWhatIsMissing() {
  const words = [];
  const left = data.state.filter((state) => ["pending", "created", "running"].includes(state)).length;
  if (COUNT === 0) words.push("This grid has no points.");
  else if (!metrics.length && left === COUNT) words.push("No point has ended yet.");
  else if (!data.state.includes("completed")) words.push(left ? "No point has completed yet." : "No point completed.");
  if (COUNT > 0 && !metrics.length) {
    words.push("No point has a number in its summary, so there are no effects to plot:",
      "what main() returns as numbers is plotted here.");
  } else if (COUNT > 0 && !keys.length) words.push("No key varies between the points.");
  if (data.left_out) words.push(data.left_out);
  const place = document.getElementById("nothing");
  place.hidden = words.length === 0;
  place.textContent = words.join(" ");
}

function offerLog() {
  const box = document.getElementById("log");
  const possible = chosen.metric !== null && canLog(extent(chosen.metric.values));
  box.disabled = !possible;
  if (!possible) box.checked = chosen.log = false;
}

function setUp() {
  document.getElementById("bar").hidden = COUNT === 0;
  document.getElementById("filter-help").hidden = COUNT === 0;
  metricPick.append(...metrics.map((metric) => html("option", { value: metric.name }, metric.name)));
  for (const pick of [metricPick, document.getElementById("log")]) pick.closest("label").hidden = metrics.length === 0;
  if (chosen.metric) metricPick.value = chosen.metric.name;
  metricPick.addEventListener("change", () => {
    // A brush on the axis of another metric would hide points for no visible reason.
    chosen.brushes.delete(chosen.metric);
    chosen.metric = metrics.find((metric) => metric.name === metricPick.value);
    offerLog();
    refresh();
  });
  document.getElementById("log").addEventListener("change", (event) => {
    chosen.log = event.target.checked;
    chosen.brushes.delete(chosen.metric); // its axis has moved
    refresh();
  });
  filterField.addEventListener("input", () => {
    chosen.filter = filterField.value.trim();
    refresh();
  });
  document.getElementById("clear").addEventListener("click", () => {
    filterField.value = chosen.filter = "";
    chosen.brushes.clear();
    refresh();
  });
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 150);
  });
  for (const query of [dark, printing]) query.addEventListener("change", refresh);
}

sayWhatIsMissing();
setUp();
offerLog();
setUpCurves();
if (COUNT) setUpTable();
refresh();
