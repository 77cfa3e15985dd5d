// Learning curves: of single trials, of the selected trials, and means of groups of trials.

/** Return values smoothed by an exponential moving average without a bias towards the first, as W&B and TensorBoard do it. */
function smoothed(values, weight) {
  let mean = 0, total = 0;
  return weight === 0 ? values : values.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return mean / total;
  });
}

/** Return a trial's smoothed learning curve as epochs and values. */
function smoothedCurve(trial, metric) {
  const points = pointsOf(trial, metric);
  return { epochs: points.map(([epoch]) => epoch), values: smoothed(points.map(([, value]) => value), view.smoothing) };
}

/** Return a single trace of several trials' curves, with a gap after each. */
function curveTrace(trials, metric, colour, width, more = {}) {
  const x = [], y = [], customdata = [];
  for (const trial of trials) {
    const { epochs, values } = smoothedCurve(trial, metric);
    epochs.forEach((epoch, k) => {
      x.push(epoch);
      y.push(values[k]);
      customdata.push(`Trial ${trial.number}, epoch ${epoch}: ${escapeForPlotly(formatMetric(values[k], metric))}`);
    });
    x.push(null);
    y.push(null);
    customdata.push("");
  }
  return scatter("lines", x, y, { customdata, line: { color: colour, width }, ...more });
}

/** Return markers at the ends of curves. */
function ends(trials, metric, marker, more = {}) {
  const curves = trials.map((trial) => smoothedCurve(trial, metric));
  return scatter("markers", curves.map(({ epochs }) => epochs.at(-1)), curves.map(({ values }) => values.at(-1)), {
    customdata: trials.map((trial) => `Trial ${trial.number}, ${trial.state}`), marker: { size: 8, ...marker }, ...more,
  });
}

function learningLayout({ metric, target }, height) {
  const shapes = typeof target === "number" ? [dotted({ y0: target, y1: target, x0: 0, x1: 1, xref: "paper" })] : [];
  const scale = (isLog) => (isLog ? { type: "log", tickformat: "~g", dtick: "D2" } : { type: "linear" });
  return layoutOf(height, {
    shapes,
    showlegend: true, legend: { orientation: "h", x: 0, y: -0.16, yanchor: "top" },
    xaxis: { title: axisTitle("epoch"), ...scale(view.logEpochs), ...(view.logEpochs ? {} : { rangemode: "tozero" }) },
    yaxis: { title: axisTitle(metricTitle(metric)), ...scale(view.logMetric) },
  });
}

/** Return the learning curves of the shown trials, or of the best of them. */
function learningChart(results) {
  const { metric } = results.sweep;
  const measured = results.trials.filter((trial) => pointsOf(trial, metric).length);
  const drawn = view.top ? ranked({ ...results, trials: measured }).slice(0, view.top) : measured;
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
