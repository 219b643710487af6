// Learning curves: what runs logged, step by step.

const curvePick = document.getElementById("curve");
const paintPick = document.getElementById("paint");
const curveLog = document.getElementById("curve-log");
const BY_METRIC = "";

function setUpCurves() {
  document.getElementById("curves").hidden = data.curves.keys.length === 0;
  curvePick.append(...data.curves.keys.map((key) => html("option", { value: key }, key)));
  const options = chosen.metric ? [html("option", { value: BY_METRIC }, "by the metric")] : [];
  const varied = plottedKeys().map((key) => html("option", { value: `key:${key.name}` }, `by ${key.name}`));
  paintPick.append(...options, ...varied);
  if (!options.length && !varied.length) paintPick.append(html("option", { value: "none" }, "all the same"));
  // A key with few values shows more than a hundred shades.
  const few = keys.find((key) => !key.repeat && key.levels.length > 1 && key.levels.length <= 8);
  if (few) paintPick.value = `key:${few.name}`;
  for (const pick of [curvePick, paintPick, curveLog]) pick.addEventListener("change", refresh);
}

function drawCurves(shown) {
  const section = document.getElementById("curves");
  if (section.hidden) return;
  const kept = new Set(shown);
  const name = curvePick.value;
  const found = data.curves.runs
    .filter(([index, curves]) => kept.has(index) && Object.hasOwn(curves, name))
    .map(([index, curves]) => ({ index, steps: curves[name][0], values: decoded(curves[name][1]) }));
  section.querySelector(".note").textContent = `${plural(found.length, "run")}; ${data.curves.rule}.`;
  const yRange = extent(found.flatMap((curve) => curve.values));
  const plots = section.querySelector(".plots");
  if (!yRange) {
    plots.replaceChildren(html("p", {}, "None of these points has logged a finite value of it."));
    return;
  }
  const [paint, legend] = painter(found);
  plots.replaceChildren(curvePlot(name, found, yRange, paint), legend);
}

function curvePlot(name, found, yRange, paint) {
  const width = Math.min(900, document.querySelector("main").clientWidth);
  const [left, right, top, bottom, height] = [66, width - 14, 12, 300, 344];
  const log = curveLog.checked && canLog(yRange);
  const x = scale(extent(found.flatMap((curve) => curve.steps)), [left, right]);
  const y = scale(padded(yRange, log), [bottom, top], log);
  const plot = drawing(width, height, `${name} over steps, ${plural(found.length, "curve")}`);
  plot.append(yAxis(y, left, right, name, top, bottom), xAxis(x, left, right, bottom, "step"));
  for (const curve of found) {
    const last = curve.values.at(-1);
    const words = `${pointTip(curve.index)}\nlast ${name}: ${show(last)}`;
    const group = svg("g", { class: found.length > 40 ? "curve thin" : "curve", "data-tip": words });
    const [path, color] = [pathOf(curve, x, y), paint(curve.index)];
    group.append(svg("path", { d: path, class: "hit" }), svg("path", { d: path, stroke: color }));
    if (curve.values.length === 1 && Number.isFinite(last)) {
      group.append(svg("circle", { cx: x(curve.steps[0]), cy: y(last), r: 3, fill: color }));
    }
    plot.append(group);
  }
  return svgFigure(plot, "");
}

// NaN and infinities leave a gap.
function pathOf({ steps, values }, x, y) {
  let pen = "M";
  return values.map((value, at) => {
    if (!Number.isFinite(value)) {
      pen = "M";
      return "";
    }
    const part = `${pen}${x(steps[at]).toFixed(1)},${y(value).toFixed(1)}`;
    pen = "L";
    return part;
  }).join("");
}

// The color of a point's curve, and what explains the colors.
function painter(found) {
  const key = keys.find((each) => `key:${each.name}` === paintPick.value);
  const source = key ?? (paintPick.value === BY_METRIC ? chosen.metric : null);
  if (!source) return [() => viridis(0.4), html("div")];
  if (!key || (key.numeric && key.levels.length > 8)) return numberPainter(source, found, key);
  const place = new Map(key.levels.map((level, at) => [identity(level), at]));
  const count = key.levels.length;
  const ordered = key.numeric || count > DISTINCT.length;
  const color = (at) => (ordered ? viridis(count > 1 ? at / (count - 1) : 0.4) : DISTINCT[at]);
  const chips = key.levels.slice(0, MOST_LEVELS).map((level, at) => {
    const dash = line(0, 5, 18, 5, { stroke: color(at), "stroke-width": 3 });
    const mark = svg("svg", { width: 18, height: 10, "aria-hidden": "true" }, dash);
    return html("span", { class: "chip" }, mark, ` ${label(level)}`);
  });
  const legend = html("div", { class: "legend" }, html("b", {}, key.name), ...chips);
  return [(index) => color(place.get(identity(key.values[index]))), legend];
}

function numberPainter(source, found, key) {
  const range = extent(found.map((curve) => source.values[curve.index]));
  if (!range) return [() => "gray", html("div")];
  const log = key ? key.wide : chosen.log;
  const color = colors(range, log);
  const paint = (index) => (Number.isFinite(source.values[index]) ? color(source.values[index]) : "gray");
  return [paint, html("div", { class: "legend" }, colorBar(range, log, source.name))];
}
