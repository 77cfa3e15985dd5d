// Charts of the sweep as a whole: optimization history, timeline and empirical distribution.

const END_SYMBOLS = { failed: "x", running: "triangle-right", interrupted: "diamond-open" }; // besides the colours, for those who do not tell them apart
const TIME_UNITS = [[2 * 86400, 86400, "days"], [2 * 3600, 3600, "hours"], [120, 60, "minutes"], [0, 1, "seconds"]];

/** Return when a trial ended, or how far it has come: time stamps in seconds. Null for a trial without a start. */
function endOf(trial, results) {
  if (!Number.isFinite(trial.started)) return null;
  if (Number.isFinite(trial.ended)) return trial.ended;
  return trial.state === "running" ? Math.max(trial.started, results.updated) : trial.started + (trial.seconds ?? 0);
}

/** Return a function from time stamps to time since the first trial's start, with the unit that suits the sweep's duration. */
function clockOf(results) {
  const trials = (results.all ?? results.trials).filter((trial) => endOf(trial, results) !== null);
  const start = Math.min(...trials.map((trial) => trial.started));
  const duration = Math.max(...trials.map((trial) => endOf(trial, results))) - start;
  const [, seconds, unit] = TIME_UNITS.find(([least]) => duration >= least) ?? TIME_UNITS.at(-1);
  return { since: (stamp) => (stamp - start) / seconds, title: `time since the first start, ${unit}` };
}

/** Return trials with a result in order of their number or their end, as places on the x axis. Failed trials are no results. */
function historyOf(results, by) {
  const usable = results.trials.filter((trial) => trial.best !== null && trial.state !== "failed");
  if (by === "number") return { title: "trial", points: usable.map((trial) => [trial.number, trial]).sort((a, b) => a[0] - b[0]) };
  const { since, title } = clockOf(results);
  const timed = usable.filter((trial) => endOf(trial, results) !== null);
  return { title, points: timed.map((trial) => [since(endOf(trial, results)), trial]).sort((a, b) => a[0] - b[0]) };
}

/** Return the best value so far as steps: x and y. */
function bestSoFar({ sweep: { mode } }, points) {
  let best = null;
  const better = mode === "max" ? Math.max : Math.min;
  return { x: points.map(([x]) => x), y: points.map(([, trial]) => { best = best === null ? trial.best : better(best, trial.best); return best; }) };
}

function historyChart(results, by) {
  const { metric, target } = results.sweep;
  const { points, title } = historyOf(results, by);
  if (!points.length) return null;
  const data = () => {
    const dotsOf = (trials) => ({ ...dots(results, trials.map(([, trial]) => trial), trials.map(([x]) => x), trials.map(([, trial]) => trial.best)), name: "trials" });
    const { x, y } = bestSoFar(results, points);
    const customdata = y.map((value) => `best so far ${escapeForPlotly(formatMetric(value, metric))}`);
    return [dotsOf(points), scatter("lines", x, y, { customdata, line: { color: "--ink", width: 2, shape: "hv" }, name: "best so far" })];
  };
  const shapes = typeof target === "number" ? [dotted({ y0: target, y1: target, x0: 0, x1: 1, xref: "paper" })] : [];
  return { data, layout: layoutOf(340, { shapes, xaxis: { title: axisTitle(title) }, yaxis: { title: axisTitle(metricTitle(metric)) } }) };
}

/** Return one bar per trial from its first start to its end, coloured by its state. */
function timelineChart(results) {
  const trials = results.trials.filter((trial) => endOf(trial, results) !== null);
  if (!trials.length) return null;
  const { since, title } = clockOf(results);
  const height = Math.min(720, Math.max(200, 90 + 14 * trials.length));
  const width = Math.min(10, Math.max(1, (0.7 * (height - 90)) / trials.length));
  const order = new Map(trials.map((trial, k) => [trial, k])); // without gaps for trials that a filter hides
  const data = () => STATES.filter((state) => trials.some((trial) => trial.state === state)).map((state) => {
    const bars = trials.filter((trial) => trial.state === state);
    const about = (trial) => `${hoverText(trial, results)}<br>ran ${escapeForPlotly(formatDuration(trial.seconds))}${trial.attempts > 1 ? `, ${trial.attempts} attempts` : ""}`;
    return scatter("lines+markers",
      bars.flatMap((trial) => [since(trial.started), since(endOf(trial, results)), null]), bars.flatMap((trial) => [order.get(trial), order.get(trial), null]),
      {
        customdata: bars.flatMap((trial) => [about(trial), about(trial), ""]), name: STATE_WORDS[state], line: { color: STATE_COLOURS[state] ?? "--line", width },
        marker: { symbol: END_SYMBOLS[state] ?? "line-ns", size: Math.max(state in END_SYMBOLS ? 7 : 3, width), color: STATE_COLOURS[state] ?? "--line", line: { width: 1, color: STATE_COLOURS[state] ?? "--line" } },
      });
  });
  const step = Math.max(1, Math.ceil(trials.length / 20));
  const ticks = trials.filter((_, k) => k % step === 0);
  return {
    data,
    layout: layoutOf(height, {
      showlegend: true, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, margin: { l: 8, r: 14, t: 30, b: 8 },
      xaxis: { title: axisTitle(title), rangemode: "tozero" },
      yaxis: { title: axisTitle("trial"), range: [trials.length - 0.5, -0.5], tickvals: ticks.map((trial) => order.get(trial)), ticktext: ticks.map((trial) => String(trial.number)), showgrid: false },
    }),
  };
}

/** Return the empirical distribution function as steps: the fraction of trials whose value is at most x. */
function distributionTrace(trials, name, more) {
  const values = trials.map((trial) => trial.best).sort((a, b) => a - b);
  const y = values.map((_, k) => (k + 1) / values.length);
  const customdata = values.map((value, k) => `${escapeForPlotly(name)}: ${(100 * y[k]).toFixed(0)} % at most ${escapeForPlotly(formatNumber(value))}`);
  return scatter("lines", [values[0], ...values], [0, ...y], { customdata: ["", ...customdata], name: escapeForPlotly(name), ...more, line: { shape: "hv", width: 2, ...more.line } });
}

function distributionLayout({ metric }, height) {
  return layoutOf(height, {
    showlegend: true, legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top" },
    xaxis: { title: axisTitle(metricTitle(metric)) }, yaxis: { title: axisTitle("fraction of trials"), tickformat: ".0%", range: [0, 1.02] },
  });
}

function distributionChart(results) {
  const all = ranked(results).filter((trial) => trial.state !== "failed");
  if (!all.length) return null;
  const finished = all.filter((trial) => trial.state === "finished");
  const data = () => [
    distributionTrace(all, "all trials with a result", { line: { color: "--muted", dash: "dot" } }),
    ...(finished.length ? [distributionTrace(finished, "finished trials", { line: { color: "--model" } })] : []),
  ];
  return { data, layout: distributionLayout(results.sweep, 340) };
}
