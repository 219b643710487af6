// More than two keys that vary: one line a point across parallel axes, which can be brushed.

const parallelTop = 34;
const parallelBottom = 300;
const beyond = 14; // how far lines that are spread, and brushes, may pass the ends of an axis

function drawParallel(candidates) {
  const section = document.getElementById("parallel");
  const crossed = keys.filter((key) => !key.repeat);
  section.hidden = !chosen.metric || crossed.length < 3;
  if (section.hidden) return;
  const axes = [...crossed, chosen.metric].map((each, at, all) => parallelAxis(each, candidates, at, all.length));
  const inside = new Set(brushed(candidates));
  const width = axes.at(-1).x + 70;
  const spoken = `parallel axes: ${axes.map((axis) => axis.column.name).join(", ")}; one line a point`;
  const plot = drawing(width, parallelBottom + 40, spoken);
  const range = extent(metricOf(candidates));
  const color = range ? colors(range, chosen.log) : () => "gray";
  // Points that are brushed away lie below the others.
  const ordered = [...candidates].sort((a, b) => inside.has(a) - inside.has(b));
  for (const index of ordered) plot.append(parallelLine(index, axes, color, inside.has(index)));
  for (const axis of axes) plot.append(axisMarks(axis, plot));
  section.querySelector(".note").textContent =
    "One line a point. Drag along an axis to show only what crosses it there, click on it to show all again; " +
    "everything on this page follows.";
  section.querySelector(".plots").replaceChildren(
    html("div", { class: "wide" }, plot),
    ...(range ? [html("div", { class: "legend" }, colorBar(range, chosen.log, chosen.metric.name))] : []));
}

function parallelAxis(each, candidates, at, count) {
  const available = document.querySelector("main").clientWidth - 150;
  const x = 70 + at * Math.max(110, available / Math.max(1, count - 1));
  const few = each !== chosen.metric && (!each.numeric || each.levels.length <= 8);
  const range = extent(each.values.filter(isNumber));
  const wide = each === chosen.metric ? chosen.log && canLog(range) : each.wide;
  const ends = [parallelBottom, parallelTop];
  const levels = new Map(each.levels.map((level, place) => [identity(level), place]));
  const byLevel = scale([0, Math.max(1, levels.size - 1)], ends);
  const byValue = range ? scale(range, ends, wide) : () => NaN;
  // Lines of the same level are spread a little: else thousands would look like one.
  const room = (parallelBottom - parallelTop) / (levels.size + 1) / 2;
  const spread = few && candidates.length > 12 ? Math.min(2 * beyond - 4, room) : 0;
  const y = (index) => {
    const value = each.values[index];
    if (few) return byLevel(levels.get(identity(value))) + jitter(index) * spread;
    return Number.isFinite(value) ? byValue(value) : NaN;
  };
  const names = few
    ? each.levels.slice(0, 40).map((level, place) => [byLevel(place), label(level)])
    : range ? byValue.ticks(6).map((tick) => [byValue(tick), show(tick)]) : [];
  return { column: each, x, y, names };
}

function parallelLine(index, axes, color, inside) {
  const value = chosen.metric.values[index];
  const path = axes.map((axis) => [axis.x, axis.y(index)]).filter(([, y]) => Number.isFinite(y));
  const missing = !Number.isFinite(value);
  return svg("polyline", {
    points: path.map(([x, y]) => `${x},${y.toFixed(1)}`).join(" "),
    stroke: missing || !inside ? null : color(value),
    class: `strand${inside ? "" : " away"}${missing ? " missing" : ""}`,
    "data-tip": pointTip(index),
  });
}

function axisMarks(axis, plot) {
  const whole = axis.column.name;
  const name = text(axis.x, 16, cut(whole, 20), { ...centeredName, "data-tip": whole });
  const group = svg("g", { class: "axis" }, name, line(axis.x, parallelTop - 8, axis.x, parallelBottom + 8));
  // Names stand left of their axis, but right of the last one, where no lines are.
  const [side, anchor] = axis.column === chosen.metric ? [1, "start"] : [-1, "end"];
  for (const [y, words] of axis.names) {
    group.append(line(axis.x + side * 4, y, axis.x, y));
    group.append(text(axis.x + side * 7, y + 3.5, cut(words, 14), { "text-anchor": anchor, class: "halo" }));
  }
  const brush = chosen.brushes.get(axis.column)?.span;
  const [low, high] = brush ?? [0, 0];
  const span = svg("rect", { class: "brush", x: axis.x - 8, width: 16, y: low, height: high - low });
  const handle = svg("rect", {
    class: "handle", x: axis.x - 14, width: 28, y: parallelTop - beyond,
    height: parallelBottom - parallelTop + 2 * beyond, "data-axis": whole,
  });
  handle.addEventListener("pointerdown", (event) => beginBrush(event, axis, plot, span, handle));
  group.append(span, handle);
  return group;
}

function beginBrush(event, axis, plot, span, handle) {
  event.preventDefault();
  handle.setPointerCapture(event.pointerId);
  const height = (moved) => {
    const box = plot.getBoundingClientRect();
    const y = ((moved.clientY - box.top) / box.height) * plot.viewBox.baseVal.height;
    return Math.min(parallelBottom + beyond, Math.max(parallelTop - beyond, y));
  };
  const start = height(event);
  let ends = [start, start];
  handle.onpointermove = (moved) => {
    ends = [start, height(moved)].sort((a, b) => a - b);
    span.setAttribute("y", ends[0]);
    span.setAttribute("height", ends[1] - ends[0]);
  };
  handle.onpointerup = () => {
    handle.onpointermove = handle.onpointerup = null;
    const inside = (index) => axis.y(index) >= ends[0] && axis.y(index) <= ends[1];
    if (ends[1] - ends[0] < 4) chosen.brushes.delete(axis.column);
    else chosen.brushes.set(axis.column, Object.assign(inside, { span: ends }));
    refresh();
  };
}
