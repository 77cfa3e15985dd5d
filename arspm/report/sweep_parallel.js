// Parallel coordinates, drawn as ordinary lines: Plotly's parcoords trace requires WebGL, which not every device has.
//
// A rectangle that is dragged over an axis filters the trials; sweep_filter.js has the same controls for keyboard and touch.

/** Return a value's position on its axis from 0 to 1; a choice with a single value is at 0.5. */
function axisPosition(value, domain) {
  if (domain.kind === "choice") return domain.values.length > 1 ? domain.values.indexOf(value) / (domain.values.length - 1) : 0.5;
  const by = domain.kind === "loguniform" ? Math.log : (x) => x;
  return (by(value) - by(domain.low)) / (by(domain.high) - by(domain.low));
}

/** Return the place (see `placeOn`) at a position of a dimension's axis. */
function placeAt(position, domain) {
  if (domain.kind === "choice") return position * (domain.values.length - 1);
  const { low, high } = domain;
  return Number((domain.kind === "loguniform" ? low * (high / low) ** position : low + position * (high - low)).toPrecision(4));
}

function axisTicks(domain) {
  if (domain.kind === "choice") return domain.values.map((value) => [axisPosition(value, domain), formatSetting(value)]);
  const middle = domain.kind === "loguniform" ? Math.sqrt(domain.low * domain.high) : (domain.low + domain.high) / 2;
  return [domain.low, middle, domain.high].map((value) => [axisPosition(value, domain), formatNumber(Number(value.toPrecision(3)))]);
}

/** Return the axes: one per dimension, then the metric's. `at`: a trial's position; `placeAt`: the place at a position. */
function parallelAxes(results) {
  const { metric, mode } = results.sweep;
  const dimensions = dimensionsOf(results);
  const names = shortNames(dimensions.map(([name]) => name));
  const { bestValue, worstValue, scalePosition } = scaleOf(results);
  const axes = dimensions.map(([name, domain]) => {
    const jitter = (trial) => (domain.kind === "choice" ? (((trial.number * 0.618) % 1) - 0.5) * 0.06 : 0); // jitter, so that lines do not hide each other
    const clamp = (place) => axisPosition(Math.min(domain.high, Math.max(domain.low, place)), domain);
    return {
      name, label: names[name], ticks: axisTicks(domain), at: (trial) => axisPosition(trial.sample[name], domain) + jitter(trial),
      placeAt: (position) => placeAt(position, domain),
      positionOf: domain.kind === "choice" ? (place) => Math.min(1, Math.max(0, place / Math.max(1, domain.values.length - 1))) : clamp,
    };
  });
  const worstTick = [0, `${mode === "max" ? "≤" : "≥"} ${formatMetric(worstValue, metric)}`];
  axes.push({
    name: METRIC_AXIS, label: metricName(metric), at: (trial) => 1 - scalePosition(trial.best),
    ticks: bestValue === worstValue ? [[1, formatMetric(bestValue, metric)]] : [[1, formatMetric(bestValue, metric)], worstTick],
    placeAt: (position) => Number((worstValue + position * (bestValue - worstValue)).toPrecision(6)),
    positionOf: (place) => (bestValue === worstValue ? 1 : Math.min(1, Math.max(0, (place - worstValue) / (bestValue - worstValue)))),
  });
  return axes;
}

/** Return a brush's range of places from the positions where dragging began and ended; null if it covers nothing. */
function brushRange(axis, from, to) {
  const [low, high] = [Math.min(from, to), Math.max(from, to)];
  const domain = results.sweep.space[axis.name];
  const margin = domain?.kind === "choice" ? 0.04 : 0; // of the jitter
  const places = [axis.placeAt(Math.max(0, low) - margin), axis.placeAt(Math.min(1, high) + margin)].sort((a, b) => a - b);
  if (domain?.kind === "choice") {
    const indices = [Math.ceil(places[0]), Math.floor(places[1])];
    return indices[0] <= indices[1] ? indices : null; // null: between two choices
  }
  if (axis.name !== METRIC_AXIS) return places;
  if (low <= 0) places[results.sweep.mode === "max" ? 0 : 1] = results.sweep.mode === "max" ? -1e300 : 1e300; // the axis ends at "or worse"
  return places;
}

/** Brush every axis that the dragged rectangle covers. */
function brushAxes(axes, range) {
  const covered = axes.filter((_, k) => Math.min(...range.x) <= k && k <= Math.max(...range.x));
  const ranges = covered.map((axis) => [axis.name, brushRange(axis, ...range.y)]).filter(([, each]) => each);
  if (!ranges.length) return;
  choose({ brushes: { ...view.brushes, ...Object.fromEntries(ranges) } });
  showFiltered();
}

/** Return parallel coordinates: the shown trials in colour, the others in grey behind them. */
function parallelChart(results) {
  const dimensions = dimensionsOf(results);
  const isComplete = (trial) => dimensions.every(([name]) => name in trial.sample);
  const everything = ranked({ ...results, trials: results.all }).filter(isComplete);
  if (!everything.length || !dimensions.length) return null;
  const shown = new Set(results.trials);
  const trials = everything.filter((trial) => shown.has(trial));
  const hidden = everything.filter((trial) => !shown.has(trial));
  const { scalePosition } = scaleOf(results);
  const axes = parallelAxes(results);
  const shades = Array.from({ length: NUM_SHADES }, () => []);
  for (const trial of trials) shades[Math.min(NUM_SHADES - 1, Math.floor(scalePosition(trial.best) * NUM_SHADES))].push(trial);
  const line = (group, colour, width, opacity) => scatter("lines",
    group.flatMap(() => [...axes.keys(), null]), group.flatMap((trial) => [...axes.map((axis) => axis.at(trial)), null]),
    { customdata: group.flatMap((trial) => Array(axes.length + 1).fill(hoverText(trial, results))), line: { color: colour, width }, opacity });
  const [width, opacity] = trials.length > 100 ? [0.8, 0.6] : [1.6, 0.85];
  const data = () => [
    ...(hidden.length ? [{ ...line(hidden, "--line", 0.8, 0.7), hoverinfo: "skip", hovertemplate: null }] : []),
    ...shades.map((group, k) => line(group, `scale ${k / (NUM_SHADES - 1)}`, width, opacity)).reverse(),
    line(trials.slice(0, 1), "--model", 3.5, 1),
  ];
  return { data, layout: parallelLayout(axes), minWidth: 150 * axes.length, on: { plotly_selected: (event) => event?.range && brushAxes(axes, event.range) } };
}

function parallelLayout(axes) {
  const over = { bgcolor: "--page", opacity: 0.85, borderpad: 1 };
  const label = (x, y, text, more) => ({ x, y, text: escapeForPlotly(text), showarrow: false, font: { size: 12, color: "--ink" }, ...more });
  const annotations = axes.flatMap((axis, k) => [
    label(k, 1.06, axis.label, { yanchor: "bottom", font: { size: 13, color: "--ink" } }),
    ...axis.ticks.map(([y, text]) => label(k, y, text, { ...(k === axes.length - 1 ? { xanchor: "left", xshift: 6 } : { xanchor: "right", xshift: -6 }), ...over })),
  ]);
  const lines = axes.map((_, k) => ({ type: "line", x0: k, x1: k, y0: 0, y1: 1, line: { color: "--muted", width: 1 } }));
  const brushes = axes.flatMap((axis, k) => {
    if (!view.brushes[axis.name]) return [];
    const ends = view.brushes[axis.name].map(axis.positionOf).sort((a, b) => a - b);
    return [{ type: "rect", x0: k - 0.05, x1: k + 0.05, y0: ends[0] - 0.015, y1: ends[1] + 0.015, line: { color: "--model", width: 1.5 }, fillcolor: "--model", opacity: 0.25 }];
  });
  const hidden = { showgrid: false, showticklabels: false, showline: false };
  const drags = matchMedia("(pointer: fine)").matches; // a finger scrolls the page
  return layoutOf(420, {
    annotations, shapes: [...lines, ...brushes], dragmode: drags ? "select" : false, selections: [], selectionrevision: JSON.stringify(view.brushes),
    newselection: { line: { color: "--model", width: 1, dash: "solid" } },
    xaxis: { ...hidden, range: [-0.75, axes.length - 0.35] }, yaxis: { ...hidden, range: [-0.06, 1.16] },
  });
}
