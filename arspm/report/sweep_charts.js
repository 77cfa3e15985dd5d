// The sweep's charts as plotly specifications: functions of the results alone, and the queue that draws them.
//
// Colours are names of the style sheet's variables ("--model"), or a place on the scale from the best trial to the
// worst ("scale 0.25"); `painted` puts in what they stand for. Text from the results goes through `plain`: plotly reads
// some HTML in its labels. Lines of many trials are one trace with gaps: a thousand traces would take seconds.

const BASE = JSON.parse(document.getElementById("figures").textContent).base;
const STATES = ["running", "waiting", "finished", "stopped", "failed", "interrupted"];
const STATE_COLOURS = { running: "--model", finished: "--face", stopped: "--shuffled", failed: "--bad", interrupted: "--neutral" };
const CHOSEN_COLOURS = ["--model", "--fused", "--face", "--gender", "--neutral", "--male"];
const METRICS = { val_cos_degrees: "validation angle" }; // others by their own name
const NUM_SHADES = 9; // lines are grouped by colour, as a trace has one colour
const MAX_PAIRS = 10;

// --- words and numbers

const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const isDegrees = (metric) => metric.endsWith("degrees");
const metricName = (metric) => METRICS[metric] ?? metric.replaceAll("_", " ");

/** A metric's value: degrees with two decimals, others to four digits. */
function figure(value, metric) {
  if (value === null || value === undefined) return "–";
  return isDegrees(metric) ? `${value.toFixed(2)}°` : number(value);
}

const FOUR_DIGITS = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 }); // kept: making one is slow
const WHOLE = new Intl.NumberFormat("en");

/** Four significant digits, commas at thousands; a minus sign as wide as a plus. */
function number(value) {
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e9)) return value.toExponential(2);
  return (Math.abs(value) < 1e4 ? FOUR_DIGITS : WHOLE).format(value).replace("-", "−");
}

/** A setting's value or label. */
function setting(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "number" ? number(value) : String(value);
}

/** The last parts of a dimension's field names: "lambda1", "kind + fusion". */
const shortName = (dimension) => dimension.split("+").map((field) => field.split(".").pop()).join(" + ");

function shortNames(dimensions) {
  const short = dimensions.map(shortName);
  return Object.fromEntries(dimensions.map((name, k) => [name, short.filter((each) => each === short[k]).length > 1 ? name : short[k]]));
}

function meanAndSd(values) {
  if (!values.length) return { mean: null, sd: null, n: 0 };
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, sd: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null, n: values.length };
}

// --- what the charts have in common

/** Trials with a best value, from the best to the worst. */
function ranked(results) {
  const sign = results.sweep.mode === "max" ? -1 : 1;
  return results.trials.filter((trial) => trial.best !== null).sort((a, b) => sign * (a.best - b.best));
}

/** Where a value lies between the best (0) and the worst (1); the worst tenth counts as 1, for a run that went astray. */
function scaleOf(results) {
  const values = ranked(results).map((trial) => trial.best);
  const near = values[0], far = values[Math.ceil(0.9 * (values.length - 1))];
  const share = (value) => (near === far ? 0 : Math.min(1, Math.max(0, (value - near) / (far - near))));
  return { near, far, share };
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

const NAMED = { showgrid: false, tickfont: { color: "--ink", size: 13 }, ticklabelstandoff: 8 }; // an axis of names
const axisTitle = (text) => ({ text, font: { size: 12 }, standoff: 6 });
const metricTitle = (metric) => plain(metricName(metric) + (isDegrees(metric) ? ", degrees" : ""));
const scatter = (mode, x, y, more) => ({ type: "scatter", mode, x, y, hovertemplate: "%{customdata}<extra></extra>", ...more });
const dotted = (more) => ({ type: "line", line: { color: "--muted", width: 1, dash: "dot" }, ...more });

/** The axis of a numeric dimension, over all that was searched. */
function axisOf(name, { kind, low, high }) {
  const title = axisTitle(plain(name));
  const ends = kind === "loguniform" ? [Math.log10(low), Math.log10(high)] : [low, high];
  const margin = 0.04 * (ends[1] - ends[0]);
  const range = [ends[0] - margin, ends[1] + margin];
  if (kind !== "loguniform") return { title, range, nticks: 6 };
  return { title, range, type: "log", tickformat: "~g", dtick: ends[1] - ends[0] >= 1.5 ? 1 : "D2" };
}

const told = new WeakMap(); // trial -> what is told of it: several charts tell the same

/** What is told of a trial where the pointer is. */
function about(trial, results) {
  if (!told.has(trial)) told.set(trial, aboutAnew(trial, results));
  return told.get(trial);
}

function aboutAnew(trial, results) {
  const values = Object.entries(trial.sample).map(([name, value]) => `${plain(name)} ${plain(setting(value))}`);
  return [`<b>Trial ${trial.number}</b>: ${plain(figure(trial.best, results.sweep.metric))}, ${plain(trial.state)}`, ...values].join("<br>");
}

// --- learning curves

const pointsOf = (trial, metric) => trial.epochs.filter((epoch) => typeof epoch[metric] === "number");

/** One trace of several trials' curves, a gap after each. */
function curves(trials, metric, colour, width, more = {}) {
  const x = [], y = [], customdata = [];
  for (const trial of trials) {
    for (const epoch of pointsOf(trial, metric)) {
      x.push(epoch.epoch);
      y.push(epoch[metric]);
      customdata.push(`Trial ${trial.number}, epoch ${epoch.epoch}: ${plain(figure(epoch[metric], metric))}`);
    }
    x.push(null);
    y.push(null);
    customdata.push("");
  }
  return scatter("lines", x, y, { customdata, line: { color: colour, width }, ...more });
}

/** The marks at the ends of curves. */
function ends(trials, metric, marker, more = {}) {
  const last = trials.map((trial) => pointsOf(trial, metric).at(-1));
  return scatter("markers", last.map((epoch) => epoch.epoch), last.map((epoch) => epoch[metric]), {
    customdata: trials.map((trial) => `Trial ${trial.number}, ${trial.state}`), marker: { size: 8, ...marker }, ...more,
  });
}

function learningLayout(metric, height) {
  return layoutOf(height, {
    showlegend: true, legend: { orientation: "h", x: 0, y: -0.16, yanchor: "top" },
    xaxis: { title: axisTitle("epoch"), rangemode: "tozero" }, yaxis: { title: axisTitle(metricTitle(metric)) },
  });
}

function learningChart(results) {
  const { metric } = results.sweep;
  const drawn = results.trials.filter((trial) => pointsOf(trial, metric).length);
  if (!drawn.length) return null;
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
    if (lines.length) data.push(curves(lines, metric, colour, few ? 1.4 : 0.7, { opacity: few ? 0.8 : 0.4, showlegend: !symbol, ...group }));
    if (symbol && trials.length) data.push(ends(trials, metric, { symbol, color: colour, line: { color: colour, width: few ? 2 : 1 }, size: few ? 8 : 5 }, group));
  }
  const paper = drawn.filter((trial) => results.paper.numbers.includes(trial.number) && trial.number !== results.best);
  if (paper.length) data.push(curves(paper, metric, "--neutral", 2, { name: "the paper’s values" }));
  const best = drawn.find((trial) => trial.number === results.best);
  if (best) {
    data.push(curves([best], metric, "--model", 3, { name: `the best, trial ${best.number}` }));
    const marker = { size: 10, color: "--model", line: { color: "--page", width: 2 } };
    if (best.best_epoch !== null) data.push(scatter("markers", [best.best_epoch], [best.best], { customdata: [about(best, results)], showlegend: false, marker }));
  }
  return { data, layout: learningLayout(metric, 440) };
}

/** trials: the chosen ones, in order. */
function chosenChart(results, trials) {
  const { metric } = results.sweep;
  const data = trials.map((trial, k) => curves([trial], metric, CHOSEN_COLOURS[k], 2.2, { name: `trial ${trial.number}` }));
  const stopped = trials.filter((trial) => trial.state === "stopped" && pointsOf(trial, metric).length);
  if (stopped.length) data.push(ends(stopped, metric, { symbol: "x-thin", line: { color: "--muted", width: 2 } }, { name: "stopped early" }));
  return data.some((trace) => trace.x.some((epoch) => epoch !== null)) ? { data, layout: learningLayout(metric, 340) } : null;
}

// --- all dimensions together

/** Where a value of a dimension lies on its axis from 0 to 1; choices of one value lie in the middle. */
function place(value, domain) {
  if (domain.kind === "choice") return domain.values.length > 1 ? domain.values.indexOf(value) / (domain.values.length - 1) : 0.5;
  const by = domain.kind === "loguniform" ? Math.log : (x) => x;
  return (by(value) - by(domain.low)) / (by(domain.high) - by(domain.low));
}

function axisTicks(domain) {
  if (domain.kind === "choice") return domain.values.map((value) => [place(value, domain), setting(value)]);
  const middle = domain.kind === "loguniform" ? Math.sqrt(domain.low * domain.high) : (domain.low + domain.high) / 2;
  return [domain.low, middle, domain.high].map((value) => [place(value, domain), number(Number(value.toPrecision(3)))]);
}

/** Parallel coordinates as plain lines over axes from 0 to 1: plotly's own need WebGL, which not every device has. */
function parallelChart(results) {
  const { metric } = results.sweep;
  const trials = ranked(results).filter((trial) => dimensionsOf(results).every(([name]) => name in trial.sample));
  const dimensions = dimensionsOf(results);
  if (!trials.length || !dimensions.length) return null;
  const names = shortNames(dimensions.map(([name]) => name));
  const { near, far, share } = scaleOf(results);
  const axes = dimensions.map(([name, domain]) => {
    const aside = (trial) => (domain.kind === "choice" ? (((trial.number * 0.618) % 1) - 0.5) * 0.06 : 0); // lines that would hide each other
    return { name: names[name], ticks: axisTicks(domain), at: (trial) => place(trial.sample[name], domain) + aside(trial) };
  });
  axes.push({ name: metricName(metric), at: (trial) => 1 - share(trial.best), ticks: near === far ? [[1, figure(near, metric)]] : [[1, figure(near, metric)], [0, `${results.sweep.mode === "max" ? "≤" : "≥"} ${figure(far, metric)}`]] });
  const shades = Array.from({ length: NUM_SHADES }, () => []);
  for (const trial of trials) shades[Math.min(NUM_SHADES - 1, Math.floor(share(trial.best) * NUM_SHADES))].push(trial);
  const line = (group, colour, width, opacity) => scatter("lines",
    group.flatMap(() => [...axes.keys(), null]), group.flatMap((trial) => [...axes.map((axis) => axis.at(trial)), null]),
    { customdata: group.flatMap((trial) => Array(axes.length + 1).fill(about(trial, results))), line: { color: colour, width }, opacity });
  const [width, opacity] = trials.length > 100 ? [0.8, 0.6] : [1.6, 0.85];
  const data = shades.map((group, k) => line(group, `scale ${k / (NUM_SHADES - 1)}`, width, opacity)).reverse();
  data.push(line(trials.slice(0, 1), "--model", 3.5, 1));
  const over = { bgcolor: "--page", opacity: 0.85, borderpad: 1 };
  const label = (x, y, text, more) => ({ x, y, text: plain(text), showarrow: false, font: { size: 12, color: "--ink" }, ...more });
  const annotations = axes.flatMap((axis, k) => [
    label(k, 1.06, axis.name, { yanchor: "bottom", font: { size: 13, color: "--ink" } }),
    ...axis.ticks.map(([y, text]) => label(k, y, text, { ...(k === axes.length - 1 ? { xanchor: "left", xshift: 6 } : { xanchor: "right", xshift: -6 }), ...over })),
  ]);
  const shapes = axes.map((_, k) => ({ type: "line", x0: k, x1: k, y0: 0, y1: 1, line: { color: "--muted", width: 1 } }));
  const hidden = { showgrid: false, showticklabels: false, showline: false };
  const layout = layoutOf(420, { annotations, shapes, xaxis: { ...hidden, range: [-0.75, axes.length - 0.35] }, yaxis: { ...hidden, range: [-0.06, 1.16] } });
  return { data, layout, minWidth: 150 * axes.length };
}

// --- importance, slices, categories

function importanceChart(results) {
  const shares = Object.entries(results.importance?.shares ?? {}).sort((a, b) => a[1] - b[1]);
  if (!shares.length) return null;
  const names = shortNames(shares.map(([name]) => name));
  const data = [{
    type: "bar", orientation: "h", x: shares.map(([, share]) => share), y: shares.map(([name]) => plain(names[name])),
    text: shares.map(([, share]) => `${(100 * share).toFixed(0)} %`), textposition: "outside", cliponaxis: false, textfont: { color: "--ink" },
    marker: { color: "--model" }, width: 0.5, customdata: shares.map(([name]) => plain(name)), hovertemplate: "%{customdata}: %{text}<extra></extra>",
  }];
  const top = Math.max(...shares.map(([, share]) => share));
  const layout = layoutOf(46 * shares.length + 40, { xaxis: { range: [0, top * 1.12], tickformat: ".0%" }, yaxis: { type: "category", ...NAMED } });
  return { data, layout };
}

/** Dots coloured by the metric; hollow where a trial did not come to its end. */
function dots(results, trials, x, y, more = {}) {
  const { share } = scaleOf(results);
  return scatter("markers", x, y, {
    customdata: trials.map((trial) => about(trial, results)),
    marker: {
      size: trials.length > 200 ? 5 : 9, color: trials.map((trial) => share(trial.best)), cmin: 0, cmax: 1,
      colorscale: [[0, "--near"], [0.5, "--midway"], [1, "--far"]], symbol: trials.map((trial) => (trial.state === "finished" ? "circle" : "circle-open")),
      line: { width: trials.length > 200 ? 1 : 1.5, color: trials.map((trial) => `scale ${share(trial.best)}`) },
    }, ...more,
  });
}

/** The metric by one numeric dimension. */
function sliceChart(results, [name, domain]) {
  const trials = ranked(results).filter((trial) => typeof trial.sample[name] === "number");
  if (!trials.length) return null;
  const paper = results.sweep.paper[name];
  const shapes = typeof paper === "number" ? [dotted({ x0: paper, x1: paper, y0: 0, y1: 1, yref: "paper" })] : [];
  const data = [dots(results, trials, trials.map((trial) => trial.sample[name]), trials.map((trial) => trial.best))];
  return { data, layout: layoutOf(280, { shapes, xaxis: axisOf(shortName(name), domain), yaxis: { title: axisTitle(metricTitle(results.sweep.metric)), nticks: 6 } }) };
}

/** Two numeric dimensions; the better, the later it is drawn. */
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

/** A categorical dimension: every trial, and below its dots mean and standard deviation of those that finished. */
function categoryChart(results, [name, domain]) {
  const trials = ranked(results).filter((trial) => domain.values.includes(trial.sample[name]));
  if (!trials.length) return null;
  const row = (value) => domain.values.length - 1 - domain.values.indexOf(value);
  const data = [dots(results, trials, trials.map((trial) => trial.best), trials.map((trial) => row(trial.sample[name]) + 0.12 + 0.22 * ((trial.number * 0.618) % 1)))];
  const { metric } = results.sweep;
  const finished = (value) => trials.filter((trial) => trial.state === "finished" && trial.sample[name] === value);
  const means = domain.values.map((value) => ({ value, ...meanAndSd(finished(value).map((trial) => trial.best)) })).filter((each) => each.n);
  data.push(scatter("markers", means.map((each) => each.mean), means.map((each) => row(each.value) - 0.16), {
    customdata: means.map((each) => `${plain(setting(each.value))}: ${plain(spread(each, metric))} over ${each.n}`), marker: { color: "--ink", size: 9, symbol: "diamond" },
    error_x: { type: "data", array: means.map((each) => each.sd ?? 0), color: "--ink", thickness: 2, width: 5 },
  }));
  const layout = layoutOf(54 * domain.values.length + 60, {
    xaxis: { title: axisTitle(metricTitle(metric)), nticks: 6 },
    yaxis: {
      tickvals: domain.values.map(row), range: [-0.6, domain.values.length - 0.4], ...NAMED,
      ticktext: domain.values.map((value) => plain(setting(value)) + (value === results.sweep.paper[name] ? " (paper)" : "")),
    },
  });
  return { data, layout };
}

/** Mean and standard deviation as text: "30.12 ± 0.42°". */
function spread({ mean, sd }, metric) {
  if (sd === null || mean === null) return figure(mean, metric);
  return isDegrees(metric) ? `${mean.toFixed(2)} ± ${sd.toFixed(2)}°` : `${number(mean)} ± ${Number(sd.toPrecision(2))}`;
}

// --- drawing

const rgb = (name, style) => style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
const between = (from, to, share) => from.map((value, k) => Math.round(value + share * (to[k] - value)));
const mixed = (from, to, share) => `rgb(${between(from, to, share).join(",")})`;

/** The colour of a place on the scale from the best (0) to the worst (1) as red, green, blue. */
function scaleRgb(share, style) {
  const [from, to, t] = share < 0.5 ? ["--near", "--midway", 2 * share] : ["--midway", "--far", 2 * share - 1];
  return between(rgb(from, style), rgb(to, style), t);
}

/** A specification with its colours put in: what stands under a name that ends in "color" or "colorscale". */
function painted(value, style, isColour = false) {
  if (typeof value === "string") {
    if (isColour && value.startsWith("--")) return style.getPropertyValue(value).trim();
    return isColour && value.startsWith("scale ") ? `rgb(${scaleRgb(Number(value.slice(6)), style).join(",")})` : value;
  }
  if (Array.isArray(value)) return typeof value[0] === "object" || isColour ? value.map((item) => painted(item, style, isColour)) : value;
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, style, /color(scale)?$/.test(name))]));
}

const wanted = new Map(); // element -> the chart that it shall show
const near = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => draw(target)), { rootMargin: "600px" });

/** Draw the chart that an element waits for, if any. */
function draw(element) {
  near.unobserve(element);
  if (!wanted.has(element)) return;
  const { data, layout } = wanted.get(element);
  wanted.delete(element);
  const style = getComputedStyle(document.documentElement);
  element.classList.add("chart");
  Plotly.react(element, painted(data, style), painted(layout, style), { displayModeBar: false, responsive: true });
}

const drawAll = () => [...wanted.keys()].forEach(draw);

/** Show a chart in a place of the page, or why there is none. It is drawn once the reader comes near. */
function show(place, chart, missing) {
  let element = place.querySelector("[role=img]");
  if (!chart) {
    if (element) { wanted.delete(element); near.unobserve(element); Plotly.purge(element); }
    const sentence = document.createElement("p");
    sentence.className = "missing";
    sentence.textContent = missing;
    place.replaceChildren(sentence);
    return;
  }
  if (!element) {
    element = document.createElement("div");
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", place.dataset.label);
    place.replaceChildren(element);
  }
  element.style.minHeight = `${chart.layout.height}px`; // kept free, so that nothing jumps when it is drawn
  element.style.minWidth = chart.minWidth ? `${chart.minWidth}px` : "";
  wanted.set(element, chart);
  near.unobserve(element); // an element that is observed already would not be reported again
  near.observe(element);
}

