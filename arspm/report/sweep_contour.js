// Contour plot of the metric over two numeric dimensions: a weighted mean of the trials around each point, as the metric between
// trials is unknown. Where no trial is near, the plot stays empty.

const GRID = 40; // points along each axis
const BANDWIDTH = 0.08; // standard deviation of a trial's weight, as a fraction of an axis
const REACH = 0.16; // distance to the nearest trial, as a fraction of an axis, beyond which nothing is drawn

/** Return the mean of the trials' values around a point; null if none is near. trials: pairs of position and value. */
function estimateAt(x, y, trials) {
  let sum = 0, total = 0, nearest = Infinity;
  for (const [u, v, value] of trials) {
    const squared = (u - x) ** 2 + (v - y) ** 2;
    const weight = Math.exp(-squared / (2 * BANDWIDTH ** 2));
    sum += weight * value;
    total += weight;
    nearest = Math.min(nearest, squared);
  }
  return nearest <= REACH ** 2 ? sum / total : null;
}

/** Return the contour plot of two dimensions, with the trials on it; colours are those of all charts. */
function contourChart(results, [first, firstDomain], [second, secondDomain]) {
  const trials = ranked(results).filter((trial) => trial.state !== "failed" && [first, second].every((name) => typeof trial.sample[name] === "number"));
  if (trials.length < 3) return null;
  const { scalePosition } = scaleOf(results);
  const data = () => {
    const points = trials.map((trial) => [axisPosition(trial.sample[first], firstDomain), axisPosition(trial.sample[second], secondDomain), trial.best]);
    const steps = Array.from({ length: GRID }, (_, k) => k / (GRID - 1));
    const means = steps.map((y) => steps.map((x) => estimateAt(x, y, points)));
    const place = (position, domain) => (domain.kind === "loguniform" ? domain.low * (domain.high / domain.low) ** position : domain.low + position * (domain.high - domain.low));
    const text = means.map((line) => line.map((mean) => (mean === null ? "" : `about ${escapeForPlotly(formatMetric(mean, results.sweep.metric))}`)));
    return [
      {
        type: "contour", x: steps.map((each) => place(each, firstDomain)), y: steps.map((each) => place(each, secondDomain)),
        z: means.map((line) => line.map((mean) => (mean === null ? null : scalePosition(mean)))), text, hovertemplate: "%{text}<extra></extra>",
        zmin: 0, zmax: 1, colorscale: [[0, "--near"], [0.5, "--midway"], [1, "--far"]], showscale: false, ncontours: 12, line: { width: 0.5, color: "--page" }, connectgaps: false, opacity: 0.85,
      },
      {
        ...dots(results, trials, trials.map((trial) => trial.sample[first]), trials.map((trial) => trial.sample[second])),
        marker: { size: trials.length > 200 ? 4 : 7, color: "--ink", symbol: trials.map((trial) => (trial.state === "finished" ? "circle" : "circle-open")), line: { color: "--ink", width: 1.2 } },
      },
    ];
  };
  return { data, layout: layoutOf(460, { xaxis: axisOf(first, firstDomain), yaxis: axisOf(second, secondDomain) }) };
}

function updateContour() {
  const numeric = numericOf(results);
  byId("contour-tools").hidden = numeric.length < 2;
  if (numeric.length < 2) {
    showChart(byId("chart-contour"), null, "A contour plot needs two numeric dimensions.");
    return;
  }
  const { shares = {} } = results.importance ?? {};
  const byImportance = [...numeric].sort((a, b) => (shares[b[0]] ?? 0) - (shares[a[0]] ?? 0)); // the two that matter most
  const find = (name, other) => numeric.find((each) => each[0] === name && each !== other) ?? byImportance.find((each) => each !== other);
  const first = find(view.contourX), second = find(view.contourY, first);
  const options = numeric.map(([name]) => [name, name]);
  showOptions(byId("contour-x"), options, first[0]);
  showOptions(byId("contour-y"), options.filter(([name]) => name !== first[0]), second[0]);
  showChart(byId("chart-contour"), contourChart(shownResults(), first, second), "Fewer than three trials have a result.");
}
