// Main effects: for each key that varies, the metric by its values.

const effectHeight = 250;

// Keys in the order of the plots: repetitions last.
const plottedKeys = () => [...keys.filter((key) => !key.repeat), ...keys.filter((key) => key.repeat)];

function drawEffects(shown) {
  const section = document.getElementById("effects");
  section.hidden = !chosen.metric || keys.length === 0;
  if (section.hidden) return;
  const values = metricOf(shown).filter(Number.isFinite);
  const log = chosen.log && canLog(extent(values));
  const plots = section.querySelector(".plots");
  const drawn = values.length ? plottedKeys().map((key) => effectPlot(key, shown, values, log)) : [];
  plots.replaceChildren(...drawn);
  const odd = metricOf(shown).filter(isNumber).length - values.length;
  section.querySelector(".note").textContent = values.length
    ? "Mean \u00b1 standard error (sample standard deviation / \u221an) over all points with that value, " +
      "whatever their other keys; small dots are the points." +
      (odd ? ` ${plural(odd, "value")} that are NaN or infinite are left out.` : "")
    : "None of these points has a finite value of this metric.";
}

function effectPlot(key, shown, values, log) {
  const many = key.levels.length > MOST_LEVELS;
  return many && key.numeric ? effectScatter(key, shown, values, log) : effectLevels(key, shown, values, log);
}

function effectLevels(key, shown, values, log) {
  const levels = key.levels.slice(0, MOST_LEVELS);
  const split = groups(shown, (index) => identity(key.values[index]));
  const found = levels.map((level) => {
    const indices = split.get(identity(level)) ?? [];
    return { level, indices, ...summarize(metricOf(indices)) };
  });
  const names = levels.map(label);
  const available = document.querySelector("main").clientWidth;
  const alone = keys.length === 1 ? 620 : 0;
  const longest = Math.max(...names.map((name) => name.length));
  const each = Math.min(110, Math.max(66, longest * 6.4 + 8));
  const width = Math.min(available, Math.max(alone, 84 + levels.length * each, 230));
  const [left, right, top] = [62, width - 12, 12];
  const room = (right - left) / levels.length;
  const turned = namesTurned(names, room - 4);
  const bottom = effectHeight - (turned ? 94 : 56);
  const bars = found.flatMap(({ mean, se }) => [mean - (se || 0), mean + (se || 0)]);
  const range = extent(log ? values : [...values, ...bars]);
  const y = scale(padded(range, log), [bottom, top], log);
  const x = (at) => left + room * (at + 0.5);
  const plot = drawing(width, effectHeight, `${chosen.metric.name} by ${key.name}: ` +
    found.map((each) => `${label(each.level)} ${describe(each)}`).join("; "));
  plot.append(yAxis(y, left, right, chosen.metric.name, top, bottom));
  plot.append(svg("g", { class: "axis" }, line(left, bottom, right, bottom),
    ...levelNames(names, x, room - 4, bottom),
    ...counts(found, x, turned ? [(left + right) / 2, effectHeight - 22] : [null, bottom + 29]),
    text((left + right) / 2, effectHeight - 7, cut(key.name, Math.floor(width / 6.5)), centeredName)));
  // Dots of the points first, so that the means lie above them.
  for (const [at, each] of found.entries()) plot.append(dots(each.indices, x(at), room, y, log));
  if (key.numeric && !key.repeat) plot.append(through(found, x, y));
  for (const [at, each] of found.entries()) {
    if (each.n) plot.append(meanMark(key, each, x(at), y, log, top, bottom));
  }
  const all = key.levels.length;
  return svgFigure(plot, all > levels.length ? `the first ${levels.length} of ${all} values` : "");
}

// How many values each mean is of: below it, or in one line where names are turned.
function counts(found, x, [center, y]) {
  const style = { "text-anchor": "middle", class: "small" };
  const same = found.every((each) => each.n === found[0].n);
  if (center === null) return found.map((each, at) => text(x(at), y, `n = ${each.n}`, style));
  const words = same ? `n = ${found[0].n} each` : cut(`n = ${found.map((each) => each.n).join(", ")}`, 44);
  return [text(center, y, words, style)];
}

function dots(indices, center, room, y, log) {
  const group = svg("g", { class: "dots" });
  for (const [at, index] of indices.entries()) {
    const value = chosen.metric.values[index];
    if (!Number.isFinite(value) || (log && value <= 0)) continue;
    const cx = center + jitter(at) * Math.min(room * 0.5, 34);
    group.append(svg("circle", { cx, cy: y(value), r: 2.2, "data-tip": pointTip(index) }));
  }
  return group;
}

function meanMark(key, { level, n, odd, mean, se }, x, y, log, top, bottom) {
  const tipText = `${key.name} = ${label(level)}\n${chosen.metric.name}: ${describe({ n, odd, mean, se })}`;
  const numbers = { "data-mean": mean, "data-se": se, "data-n": n };
  const group = svg("g", {
    class: "mean", "data-tip": tipText, "data-key": key.name, "data-level": label(level), ...numbers,
  });
  if (n > 1) {
    const low = log && mean - se <= 0 ? bottom : y(mean - se);
    const high = y(mean + se);
    group.append(line(x, Math.min(low, bottom), x, Math.max(high, top)));
    if (low < bottom) group.append(line(x - 5, low, x + 5, low));
    group.append(line(x - 5, high, x + 5, high));
  }
  group.append(svg("circle", { cx: x, cy: y(mean), r: 4.2 }));
  return group;
}

// Means of a numeric key are joined, so that a trend is seen.
function through(found, x, y) {
  const known = [...found.entries()].filter(([, each]) => each.n && each.level !== null);
  const path = known.map(([at, each]) => `${x(at)},${y(each.mean)}`).join(" ");
  return svg("polyline", { points: path, class: "through" });
}

function effectScatter(key, shown, values, log) {
  const [width, height] = [320, effectHeight];
  const [left, right, top, bottom] = [62, width - 12, 12, height - 54];
  const range = extent(key.values.filter(isNumber));
  const wide = key.wide;
  const x = scale(padded(range, wide), [left, right], wide);
  const y = scale(padded(extent(values), log), [bottom, top], log);
  const plot = drawing(width, height, `${chosen.metric.name} over ${key.name}, one dot a point`);
  plot.append(yAxis(y, left, right, chosen.metric.name, top, bottom));
  plot.append(xAxis(x, left, right, bottom, cut(key.name, 44), 4));
  const group = svg("g", { class: "dots strong" });
  for (const index of shown) {
    const [at, value] = [key.values[index], chosen.metric.values[index]];
    if (!Number.isFinite(at) || !Number.isFinite(value) || (log && value <= 0)) continue;
    group.append(svg("circle", { cx: x(at), cy: y(value), r: 2.8, "data-tip": pointTip(index) }));
  }
  plot.append(group);
  return svgFigure(plot, "");
}

function pointTip(index) {
  const metric = chosen.metric ? `\n${chosen.metric.name}: ${show(chosen.metric.values[index]) || "missing"}` : "";
  return `${data.name[index]}${metric}`;
}

// A drawing with the words below it, if any.
function svgFigure(plot, words) {
  return html("figure", {}, plot, ...(words ? [html("figcaption", {}, words)] : []));
}
