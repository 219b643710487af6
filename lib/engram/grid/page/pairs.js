// Two keys that vary: a heat map of means; when they take many values, a plane of dots.

function drawPairs(shown) {
  const section = document.getElementById("pairs");
  const pair = keys.filter((key) => !key.repeat);
  section.hidden = !chosen.metric || pair.length !== 2;
  if (section.hidden) return;
  // Along the line goes the key with more values.
  const [x, y] = pair[0].levels.length >= pair[1].levels.length ? pair : [pair[1], pair[0]];
  const values = metricOf(shown).filter(Number.isFinite);
  const scattered = [x, y].every((key) => key.numeric) && x.levels.length > MOST_LEVELS;
  const [drawn, range] = scattered ? drawPlane(x, y, shown, values) : drawHeat(x, y, shown);
  const repeats = keys.filter((key) => key.repeat).map((key) => key.name);
  const over = repeats.length ? ` over ${repeats.join(", ")}` : "";
  const averaged = `Cells are means${over}; \u00b1 is the standard error, n is in the tips.`;
  section.querySelector(".note").textContent = !range
    ? "None of these points has a finite value of this metric."
    : scattered ? "One dot a point; its color is the metric." : averaged;
  section.querySelector(".plots").replaceChildren(
    ...(range ? [drawn, html("div", { class: "legend" }, colorBar(range, chosen.log, chosen.metric.name))] : []));
}

function drawHeat(xKey, yKey, shown) {
  const [across, up] = [xKey.levels.slice(0, 60), yKey.levels.slice(0, 60)];
  const split = groups(shown, (index) => `${identity(xKey.values[index])}\n${identity(yKey.values[index])}`);
  const cells = across.flatMap((x, column) => up.map((y, row) => {
    const indices = split.get(`${identity(x)}\n${identity(y)}`) ?? [];
    return { x, y, column, row, points: indices.length, ...summarize(metricOf(indices)) };
  }));
  const range = extent(cells.map((cell) => cell.mean));
  if (!range) return [null, null];
  const rowNames = up.map((level) => cut(label(level), 18));
  const left = 40 + Math.max(...rowNames.map((name) => name.length)) * 6.4;
  const available = Math.max(200, document.querySelector("main").clientWidth - left - 20);
  const wide = Math.max(14, Math.min(84, available / across.length));
  const high = Math.max(14, Math.min(44, 460 / up.length));
  const names = across.map(label);
  const bottom = 8 + high * up.length;
  const [width, height] = [left + wide * across.length + 14, bottom + (namesTurned(names, wide) ? 84 : 42)];
  const spoken = `heat map of mean ${chosen.metric.name} over ${xKey.name} and ${yKey.name}`;
  const plot = drawing(width, height, `${spoken}, ${plural(cells.length, "cell")}`);
  const color = colors(range, chosen.log);
  for (const cell of cells) {
    const corner = [left + cell.column * wide, bottom - (cell.row + 1) * high];
    plot.append(heatCell(cell, xKey, yKey, color, corner, [wide, high]));
  }
  const middle = 8 + (high * up.length) / 2;
  const turned = { ...centeredName, transform: `rotate(-90 12 ${middle})` };
  const beside = (row) => ({ "text-anchor": "end", "data-tip": label(up[row]) });
  plot.append(svg("g", { class: "axis" },
    ...levelNames(names, (at) => left + wide * (at + 0.5), wide - 4, bottom),
    ...rowNames.map((name, row) => text(left - 6, bottom - (row + 0.5) * high + 4, name, beside(row))),
    text(left + (wide * across.length) / 2, height - 6, xKey.name, centeredName),
    text(12, middle, cut(yKey.name, 30), turned)));
  return [svgFigure(plot, ""), range];
}

function heatCell(cell, xKey, yKey, color, [x, y], [wide, high]) {
  const where = `${xKey.name} = ${label(cell.x)}\n${yKey.name} = ${label(cell.y)}`;
  const missing = cell.points ? describe(cell) : "no point";
  const group = svg("g", {
    class: "cell", "data-tip": `${where}\n${chosen.metric.name}: ${missing}`, "data-x": label(cell.x),
    "data-y": label(cell.y), "data-mean": cell.mean, "data-se": cell.se, "data-n": cell.n,
  });
  const fill = cell.n ? color(cell.mean) : "none";
  const box = { x: x + 0.5, y: y + 0.5, width: wide - 1, height: high - 1 };
  group.append(svg("rect", { ...box, fill, class: cell.n ? null : "empty" }));
  const words = cell.n ? show(cell.mean, 3) : "\u2013";
  if (words.length * 6.4 < wide - 4 && high >= 14) {
    const ink = cell.n ? inkOn(fill) : null;
    const spread = cell.n > 1 && wide >= 60 && high >= 36;
    const [centerX, centerY] = [x + wide / 2, y + high / 2];
    group.append(text(centerX, centerY + (spread ? -1 : 4), words, { ...centered, class: ink }));
    const below = { ...centered, class: `${ink} small` };
    if (spread) group.append(text(centerX, centerY + 13, `\u00b1 ${show(cell.se, 2)}`, below));
  }
  return group;
}

function drawPlane(xKey, yKey, shown, values) {
  const range = extent(values);
  if (!range) return [null, null];
  const width = Math.min(620, document.querySelector("main").clientWidth);
  const [left, right, top, bottom, height] = [66, width - 14, 12, 330, 376];
  const along = (key, ends) => scale(padded(extent(key.values), key.wide), ends, key.wide);
  const [x, y] = [along(xKey, [left, right]), along(yKey, [bottom, top])];
  const plot = drawing(width, height, `${chosen.metric.name} by color over ${xKey.name} and ${yKey.name}`);
  plot.append(yAxis(y, left, right, yKey.name, top, bottom), xAxis(x, left, right, bottom, xKey.name));
  const color = colors(range, chosen.log);
  for (const index of shown) {
    const [a, b, value] = [xKey.values[index], yKey.values[index], chosen.metric.values[index]];
    if (![a, b, value].every(Number.isFinite)) continue;
    plot.append(svg("circle", { cx: x(a), cy: y(b), r: 4.5, fill: color(value), "data-tip": pointTip(index) }));
  }
  return [svgFigure(plot, ""), range];
}
