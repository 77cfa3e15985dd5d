// The sweep's charts as Plotly specifications: pure functions of the results.
//
// Colours are names of the style sheet's variables ("--model"), or a position on the colour scale from the best trial to the
// worst ("scale 0.25"); `painted` in page_draw.js replaces them with values. Lines of many trials are a single trace with gaps,
// because a thousand traces would take seconds to draw.

const BASE = JSON.parse(document.getElementById("charts").textContent).base;
const STATE_COLOURS = { running: "--model", finished: "--face", stopped: "--shuffled", failed: "--bad", interrupted: "--neutral" };
const SELECTED_COLOURS = ["--model", "--fused", "--face", "--gender", "--neutral", "--male"];
const NUM_SHADES = 9; // number of traces of lines, because a trace has a single colour
const MAX_PAIRS = 10;

// --- shared by all charts

const rankings = new WeakMap(); // trials -> those that have a best value, in order: every chart and its colours need it

/** Return trials that have a best value, from best to worst. */
function ranked({ trials, sweep: { mode } }) {
  const sign = mode === "max" ? -1 : 1;
  if (!rankings.has(trials)) rankings.set(trials, trials.filter((trial) => trial.best !== null).sort((a, b) => sign * (a.best - b.best)));
  return rankings.get(trials);
}

/**
 * Return the colour scale: position 0 is the best value, 1 the 90th percentile and worse, so that outliers do not compress it.
 *
 * It is the scale of all trials, also of those that a filter hides: a trial keeps its colour.
 */
function scaleOf(results) {
  const values = ranked({ ...results, trials: results.all ?? results.trials }).map((trial) => trial.best);
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
  const data = () => [dots(results, trials, trials.map((trial) => trial.sample[name]), trials.map((trial) => trial.best))];
  return { data, layout: layoutOf(280, { shapes, xaxis: axisOf(shortName(name), domain), yaxis: { title: axisTitle(metricTitle(results.sweep.metric)), nticks: 6 } }) };
}

/** Return trials by two numeric dimensions, with the best trials drawn on top. */
function pairChart(results, [first, firstDomain], [second, secondDomain]) {
  const trials = ranked(results).filter((trial) => typeof trial.sample[first] === "number" && typeof trial.sample[second] === "number").reverse();
  if (!trials.length) return null;
  const data = () => [dots(results, trials, trials.map((trial) => trial.sample[first]), trials.map((trial) => trial.sample[second]))];
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
  const { metric } = results.sweep;
  const data = () => {
    const finished = (value) => trials.filter((trial) => trial.state === "finished" && trial.sample[name] === value);
    const means = domain.values.map((value) => ({ value, ...meanAndSd(finished(value).map((trial) => trial.best)) })).filter((each) => each.n);
    const diamonds = scatter("markers", means.map((each) => each.mean), means.map((each) => row(each.value) - 0.16), {
      customdata: means.map((each) => `${escapeForPlotly(formatSetting(each.value))}: ${escapeForPlotly(formatMeanSd(each, metric))} over ${each.n}`), marker: { color: "--ink", size: 9, symbol: "diamond" },
      error_x: { type: "data", array: means.map((each) => each.sd ?? 0), color: "--ink", thickness: 2, width: 5 },
    });
    return [dots(results, trials, trials.map((trial) => trial.best), trials.map((trial) => row(trial.sample[name]) + 0.12 + 0.22 * ((trial.number * 0.618) % 1))), diamonds];
  };
  const layout = layoutOf(54 * domain.values.length + 60, {
    xaxis: { title: axisTitle(metricTitle(metric)), nticks: 6 },
    yaxis: {
      tickvals: domain.values.map(row), range: [-0.6, domain.values.length - 0.4], ...CATEGORY_AXIS,
      ticktext: domain.values.map((value) => escapeForPlotly(formatSetting(value)) + (value === results.sweep.paper[name] ? " (paper)" : "")),
    },
  });
  return { data, layout };
}
