// The sweep's charts as Plotly specifications: pure functions of the results.
//
// Colours are names of the style sheet's variables ("--model"), or a position on the colour scale from the best trial to the
// worst ("scale 0.25"); `painted` in sweep_draw.js replaces them with values. Lines of many trials are a single trace with gaps,
// because a thousand traces would take seconds to draw.

const BASE = JSON.parse(document.getElementById("charts").textContent).base;
const STATE_COLOURS = { running: "--model", finished: "--face", stopped: "--shuffled", failed: "--bad", interrupted: "--neutral" };
const SELECTED_COLOURS = ["--model", "--fused", "--face", "--gender", "--neutral", "--male"];
const NUM_SHADES = 9; // number of traces of lines, because a trace has a single colour
const MAX_PAIRS = 10;

// --- shared by all charts

/** Return trials that have a best value, from best to worst. */
function ranked(results) {
  const sign = results.sweep.mode === "max" ? -1 : 1;
  return results.trials.filter((trial) => trial.best !== null).sort((a, b) => sign * (a.best - b.best));
}

/** Return the colour scale: position 0 is the best value, 1 the 90th percentile and worse, so that outliers do not compress it. */
function scaleOf(results) {
  const values = ranked(results).map((trial) => trial.best);
  const bestValue = values[0], worstValue = values[Math.ceil(0.9 * (values.length - 1))];
  const scalePosition = (value) => (bestValue === worstValue ? 0 : Math.min(1, Math.max(0, (value - bestValue) / (worstValue - bestValue))));
  return { bestValue, worstValue, scalePosition };
}

const dimensionsOf = (results) => Object.entries(results.sweep.space).filter(([name]) => name !== "seed");
const isNumeric = ([, domain]) => domain.kind !== "choice";
const numericOf = (results) => dimensionsOf(results).filter(isNumeric);
const categoricalOf = (results) => dimensionsOf(results).filter((each) => !isNumeric(each));

function layoutOf(height, more = {}) {
  const layout = structuredClone(BASE);
  const { xaxis, yaxis, ...rest } = more;
  Object.assign(layout.xaxis, xaxis);
  Object.assign(layout.yaxis, yaxis);
  return { ...layout, height, uirevision: "kept", hovermode: "closest", ...rest };
}

const CATEGORY_AXIS = { showgrid: false, tickfont: { color: "--ink", size: 13 }, ticklabelstandoff: 8 };
const axisTitle = (text) => ({ text, font: { size: 12 }, standoff: 6 });
const metricTitle = (metric) => escapeForPlotly(metricName(metric) + (isDegrees(metric) ? ", degrees" : ""));
const scatter = (mode, x, y, more) => ({ type: "scatter", mode, x, y, hovertemplate: "%{customdata}<extra></extra>", ...more });
const dotted = (more) => ({ type: "line", line: { color: "--muted", width: 1, dash: "dot" }, ...more });

/** Return the axis of a numeric dimension over its search space. */
function axisOf(name, { kind, low, high }) {
  const title = axisTitle(escapeForPlotly(name));
  const ends = kind === "loguniform" ? [Math.log10(low), Math.log10(high)] : [low, high];
  const margin = 0.04 * (ends[1] - ends[0]);
  const range = [ends[0] - margin, ends[1] + margin];
  if (kind !== "loguniform") return { title, range, nticks: 6 };
  return { title, range, type: "log", tickformat: "~g", dtick: ends[1] - ends[0] >= 1.5 ? 1 : "D2" };
}

const hoverTexts = new WeakMap(); // trial -> its hover text, which several charts share

/** Return the hover text of a trial. */
function hoverText(trial, results) {
  if (!hoverTexts.has(trial)) hoverTexts.set(trial, makeHoverText(trial, results));
  return hoverTexts.get(trial);
}

function makeHoverText(trial, results) {
  const values = Object.entries(trial.sample).map(([name, value]) => `${escapeForPlotly(name)} ${escapeForPlotly(formatSetting(value))}`);
  return [`<b>Trial ${trial.number}</b>: ${escapeForPlotly(formatMetric(trial.best, results.sweep.metric))}, ${escapeForPlotly(trial.state)}`, ...values].join("<br>");
}

// --- learning curves

/** Return a single trace of several trials' curves, with a gap after each. */
function curveTrace(trials, metric, colour, width, more = {}) {
  const x = [], y = [], customdata = [];
  for (const trial of trials) {
    for (const [epoch, value] of pointsOf(trial, metric)) {
      x.push(epoch);
      y.push(value);
      customdata.push(`Trial ${trial.number}, epoch ${epoch}: ${escapeForPlotly(formatMetric(value, metric))}`);
    }
    x.push(null);
    y.push(null);
    customdata.push("");
  }
  return scatter("lines", x, y, { customdata, line: { color: colour, width }, ...more });
}

/** Return markers at the ends of curves. */
function ends(trials, metric, marker, more = {}) {
  const last = trials.map((trial) => pointsOf(trial, metric).at(-1));
  return scatter("markers", last.map(([epoch]) => epoch), last.map(([, value]) => value), {
    customdata: trials.map((trial) => `Trial ${trial.number}, ${trial.state}`), marker: { size: 8, ...marker }, ...more,
  });
}

function learningLayout({ metric, target }, height) {
  const shapes = typeof target === "number" ? [dotted({ y0: target, y1: target, x0: 0, x1: 1, xref: "paper" })] : [];
  return layoutOf(height, {
    shapes,
    showlegend: true, legend: { orientation: "h", x: 0, y: -0.16, yanchor: "top" },
    xaxis: { title: axisTitle("epoch"), rangemode: "tozero" }, yaxis: { title: axisTitle(metricTitle(metric)) },
  });
}

function learningChart(results) {
  const { metric } = results.sweep;
  const drawn = results.trials.filter((trial) => pointsOf(trial, metric).length);
  return drawn.length ? { data: () => learningTraces(results, drawn), layout: learningLayout(results.sweep, 440) } : null;
}

function learningTraces(results, drawn) {
  const { metric } = results.sweep;
  const few = drawn.length <= 60;
  const special = new Set([results.best, ...results.paper.numbers]);
  const data = [];
  for (const [states, name, colour, symbol] of [
    [["stopped"], "stopped early", "--shuffled", "x-thin"], [["finished"], "finished", "--loss", null],
    [["running"], "running", "--model", "circle-open"], [["failed", "interrupted"], "failed or interrupted", "--bad", "triangle-down-open"],
  ]) {
    const trials = drawn.filter((trial) => states.includes(trial.state));
    const lines = trials.filter((trial) => !special.has(trial.number));
    const group = { legendgroup: name, name };
    if (lines.length) data.push(curveTrace(lines, metric, colour, few ? 1.4 : 0.7, { opacity: few ? 0.8 : 0.4, showlegend: !symbol, ...group }));
    if (symbol && trials.length) data.push(ends(trials, metric, { symbol, color: colour, line: { color: colour, width: few ? 2 : 1 }, size: few ? 8 : 5 }, group));
  }
  const paper = drawn.filter((trial) => results.paper.numbers.includes(trial.number) && trial.number !== results.best);
  if (paper.length) data.push(curveTrace(paper, metric, "--neutral", 2, { name: "the paper’s values" }));
  const best = drawn.find((trial) => trial.number === results.best);
  if (best) {
    data.push(curveTrace([best], metric, "--model", 3, { name: `the best, trial ${best.number}` }));
    const marker = { size: 10, color: "--model", line: { color: "--page", width: 2 } };
    if (best.best_epoch !== null) data.push(scatter("markers", [best.best_epoch], [best.best], { customdata: [hoverText(best, results)], showlegend: false, marker }));
  }
  return data;
}

/** Return the learning curves of the selected trials, in the order of selection. */
function comparisonChart(results, trials) {
  const { metric } = results.sweep;
  const data = trials.map((trial, k) => curveTrace([trial], metric, SELECTED_COLOURS[k], 2.2, { name: `trial ${trial.number}` }));
  const stopped = trials.filter((trial) => trial.state === "stopped" && pointsOf(trial, metric).length);
  if (stopped.length) data.push(ends(stopped, metric, { symbol: "x-thin", line: { color: "--muted", width: 2 } }, { name: "stopped early" }));
  return data.some((trace) => trace.x.some((epoch) => epoch !== null)) ? { data, layout: learningLayout(results.sweep, 340) } : null;
}

// --- parallel coordinates

/** Return a value's position on its axis from 0 to 1; a choice with a single value is at 0.5. */
function axisPosition(value, domain) {
  if (domain.kind === "choice") return domain.values.length > 1 ? domain.values.indexOf(value) / (domain.values.length - 1) : 0.5;
  const by = domain.kind === "loguniform" ? Math.log : (x) => x;
  return (by(value) - by(domain.low)) / (by(domain.high) - by(domain.low));
}

function axisTicks(domain) {
  if (domain.kind === "choice") return domain.values.map((value) => [axisPosition(value, domain), formatSetting(value)]);
  const middle = domain.kind === "loguniform" ? Math.sqrt(domain.low * domain.high) : (domain.low + domain.high) / 2;
  return [domain.low, middle, domain.high].map((value) => [axisPosition(value, domain), formatNumber(Number(value.toPrecision(3)))]);
}

/** Return parallel coordinates, drawn as ordinary lines: Plotly's parcoords trace requires WebGL, which not every device has. */
function parallelChart(results) {
  const { metric } = results.sweep;
  const trials = ranked(results).filter((trial) => dimensionsOf(results).every(([name]) => name in trial.sample));
  const dimensions = dimensionsOf(results);
  if (!trials.length || !dimensions.length) return null;
  const names = shortNames(dimensions.map(([name]) => name));
  const { bestValue, worstValue, scalePosition } = scaleOf(results);
  const axes = dimensions.map(([name, domain]) => {
    const jitter = (trial) => (domain.kind === "choice" ? (((trial.number * 0.618) % 1) - 0.5) * 0.06 : 0); // jitter, so that lines do not hide each other
    return { name: names[name], ticks: axisTicks(domain), at: (trial) => axisPosition(trial.sample[name], domain) + jitter(trial) };
  });
  axes.push({ name: metricName(metric), at: (trial) => 1 - scalePosition(trial.best), ticks: bestValue === worstValue ? [[1, formatMetric(bestValue, metric)]] : [[1, formatMetric(bestValue, metric)], [0, `${results.sweep.mode === "max" ? "≤" : "≥"} ${formatMetric(worstValue, metric)}`]] });
  const shades = Array.from({ length: NUM_SHADES }, () => []);
  for (const trial of trials) shades[Math.min(NUM_SHADES - 1, Math.floor(scalePosition(trial.best) * NUM_SHADES))].push(trial);
  const line = (group, colour, width, opacity) => scatter("lines",
    group.flatMap(() => [...axes.keys(), null]), group.flatMap((trial) => [...axes.map((axis) => axis.at(trial)), null]),
    { customdata: group.flatMap((trial) => Array(axes.length + 1).fill(hoverText(trial, results))), line: { color: colour, width }, opacity });
  const [width, opacity] = trials.length > 100 ? [0.8, 0.6] : [1.6, 0.85];
  const data = shades.map((group, k) => line(group, `scale ${k / (NUM_SHADES - 1)}`, width, opacity)).reverse();
  data.push(line(trials.slice(0, 1), "--model", 3.5, 1));
  const over = { bgcolor: "--page", opacity: 0.85, borderpad: 1 };
  const label = (x, y, text, more) => ({ x, y, text: escapeForPlotly(text), showarrow: false, font: { size: 12, color: "--ink" }, ...more });
  const annotations = axes.flatMap((axis, k) => [
    label(k, 1.06, axis.name, { yanchor: "bottom", font: { size: 13, color: "--ink" } }),
    ...axis.ticks.map(([y, text]) => label(k, y, text, { ...(k === axes.length - 1 ? { xanchor: "left", xshift: 6 } : { xanchor: "right", xshift: -6 }), ...over })),
  ]);
  const shapes = axes.map((_, k) => ({ type: "line", x0: k, x1: k, y0: 0, y1: 1, line: { color: "--muted", width: 1 } }));
  const hidden = { showgrid: false, showticklabels: false, showline: false };
  const layout = layoutOf(420, { annotations, shapes, xaxis: { ...hidden, range: [-0.75, axes.length - 0.35] }, yaxis: { ...hidden, range: [-0.06, 1.16] } });
  return { data, layout, minWidth: 150 * axes.length };
}

// --- parameter importance, slice plots

function importanceChart(results) {
  const importances = Object.entries(results.importance?.shares ?? {}).sort((a, b) => a[1] - b[1]);
  if (!importances.length) return null;
  const names = shortNames(importances.map(([name]) => name));
  const data = [{
    type: "bar", orientation: "h", x: importances.map(([, fraction]) => fraction), y: importances.map(([name]) => escapeForPlotly(names[name])),
    text: importances.map(([, fraction]) => `${(100 * fraction).toFixed(0)} %`), textposition: "outside", cliponaxis: false, textfont: { color: "--ink" },
    marker: { color: "--model" }, width: 0.5, customdata: importances.map(([name]) => escapeForPlotly(name)), hovertemplate: "%{customdata}: %{text}<extra></extra>",
  }];
  const top = Math.max(...importances.map(([, fraction]) => fraction));
  const layout = layoutOf(46 * importances.length + 40, { xaxis: { range: [0, top * 1.12], tickformat: ".0%" }, yaxis: { type: "category", ...CATEGORY_AXIS } });
  return { data, layout };
}

/** Return dots coloured by the metric; hollow for trials that did not finish. */
function dots(results, trials, x, y, more = {}) {
  const { scalePosition } = scaleOf(results);
  return scatter("markers", x, y, {
    customdata: trials.map((trial) => hoverText(trial, results)),
    marker: {
      size: trials.length > 200 ? 5 : 9, color: trials.map((trial) => scalePosition(trial.best)), cmin: 0, cmax: 1,
      colorscale: [[0, "--near"], [0.5, "--midway"], [1, "--far"]], symbol: trials.map((trial) => (trial.state === "finished" ? "circle" : "circle-open")),
      line: { width: trials.length > 200 ? 1 : 1.5, color: trials.map((trial) => `scale ${scalePosition(trial.best)}`) },
    }, ...more,
  });
}

/** Return the metric by one numeric dimension. */
function sliceChart(results, [name, domain]) {
  const trials = ranked(results).filter((trial) => typeof trial.sample[name] === "number");
  if (!trials.length) return null;
  const paper = results.sweep.paper[name];
  const shapes = typeof paper === "number" ? [dotted({ x0: paper, x1: paper, y0: 0, y1: 1, yref: "paper" })] : [];
  const data = [dots(results, trials, trials.map((trial) => trial.sample[name]), trials.map((trial) => trial.best))];
  return { data, layout: layoutOf(280, { shapes, xaxis: axisOf(shortName(name), domain), yaxis: { title: axisTitle(metricTitle(results.sweep.metric)), nticks: 6 } }) };
}

/** Return trials by two numeric dimensions, with the best trials drawn on top. */
function pairChart(results, [first, firstDomain], [second, secondDomain]) {
  const trials = ranked(results).filter((trial) => typeof trial.sample[first] === "number" && typeof trial.sample[second] === "number").reverse();
  if (!trials.length) return null;
  const data = [dots(results, trials, trials.map((trial) => trial.sample[first]), trials.map((trial) => trial.sample[second]))];
  const { paper } = results.sweep;
  const shapes = [];
  if (typeof paper[first] === "number") shapes.push(dotted({ x0: paper[first], x1: paper[first], y0: 0, y1: 1, yref: "paper" }));
  if (typeof paper[second] === "number") shapes.push(dotted({ y0: paper[second], y1: paper[second], x0: 0, x1: 1, xref: "paper" }));
  return { data, layout: layoutOf(280, { shapes, xaxis: axisOf(shortName(first), firstDomain), yaxis: axisOf(shortName(second), secondDomain) }) };
}

/** Return all trials by a categorical dimension, with mean and standard deviation of the finished trials. */
function categoryChart(results, [name, domain]) {
  const trials = ranked(results).filter((trial) => domain.values.includes(trial.sample[name]));
  if (!trials.length) return null;
  const row = (value) => domain.values.length - 1 - domain.values.indexOf(value);
  const data = [dots(results, trials, trials.map((trial) => trial.best), trials.map((trial) => row(trial.sample[name]) + 0.12 + 0.22 * ((trial.number * 0.618) % 1)))];
  const { metric } = results.sweep;
  const finished = (value) => trials.filter((trial) => trial.state === "finished" && trial.sample[name] === value);
  const means = domain.values.map((value) => ({ value, ...meanAndSd(finished(value).map((trial) => trial.best)) })).filter((each) => each.n);
  data.push(scatter("markers", means.map((each) => each.mean), means.map((each) => row(each.value) - 0.16), {
    customdata: means.map((each) => `${escapeForPlotly(formatSetting(each.value))}: ${escapeForPlotly(formatMeanSd(each, metric))} over ${each.n}`), marker: { color: "--ink", size: 9, symbol: "diamond" },
    error_x: { type: "data", array: means.map((each) => each.sd ?? 0), color: "--ink", thickness: 2, width: 5 },
  }));
  const layout = layoutOf(54 * domain.values.length + 60, {
    xaxis: { title: axisTitle(metricTitle(metric)), nticks: 6 },
    yaxis: {
      tickvals: domain.values.map(row), range: [-0.6, domain.values.length - 0.4], ...CATEGORY_AXIS,
      ticktext: domain.values.map((value) => escapeForPlotly(formatSetting(value)) + (value === results.sweep.paper[name] ? " (paper)" : "")),
    },
  });
  return { data, layout };
}
