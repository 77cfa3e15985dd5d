// Groups of trials: all trials that differ only in `seed`, or that share a value of one choice. A group's figures are the mean
// and the standard deviation over its finished trials: a trial that was stopped early has no final value.

const SEEDS = "seed";
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]; // besides the colours, for those who do not tell them apart

/** Return the ways to group this sweep's trials, as pairs of name and text. */
function groupings({ sweep: { space } }) {
  const choices = Object.entries(space).filter(([name, domain]) => domain.kind === "choice" && name !== SEEDS);
  return [...(SEEDS in space ? [[SEEDS, "everything but the seed"]] : []), ...choices.map(([name]) => [name, name])];
}

/** Return the groups from the best mean to the worst; each has a name, its trials, and mean and sd over the finished ones. */
function groupsOf(results, by) {
  const { space, mode } = results.sweep;
  const names = shortNames(Object.keys(space));
  const nameOf = ({ sample }) => (by === SEEDS
    ? Object.keys(space).filter((name) => name !== SEEDS).map((name) => `${names[name]} ${formatSetting(sample[name])}`).join(", ")
    : formatSetting(sample[by]));
  const found = new Map();
  for (const trial of results.trials) found.set(nameOf(trial), [...(found.get(nameOf(trial)) ?? []), trial]);
  const sign = mode === "max" ? -1 : 1;
  return [...found]
    .map(([name, trials]) => {
      const finished = trials.filter((trial) => trial.state === "finished" && trial.best !== null);
      return { name: name || "all trials", trials, finished, ...meanAndSd(finished.map((trial) => trial.best)) };
    })
    .sort((a, b) => (a.mean === null) - (b.mean === null) || sign * (a.mean - b.mean));
}

/** Return the mean learning curve of each group, with a band of one standard deviation. */
function groupChart(results, groups) {
  const { metric } = results.sweep;
  const drawn = groups.filter(({ finished }) => finished.some((trial) => pointsOf(trial, metric).length)).slice(0, SELECTED_COLOURS.length);
  if (!drawn.length) return null;
  return { data: () => drawn.flatMap((group, k) => groupTraces(group, metric, SELECTED_COLOURS[k], DASHES[k])), layout: learningLayout(results.sweep, 400) };
}

function groupTraces({ name, finished }, metric, colour, dash) {
  const curves = finished.map((trial) => smoothedCurve(trial, metric));
  const byEpoch = new Map();
  for (const { epochs, values } of curves) epochs.forEach((epoch, k) => byEpoch.set(epoch, [...(byEpoch.get(epoch) ?? []), values[k]]));
  const x = [...byEpoch.keys()].sort((a, b) => a - b);
  const means = x.map((epoch) => meanAndSd(byEpoch.get(epoch)));
  const edge = (sign, more) => scatter("lines", x, means.map(({ mean, sd }) => mean + sign * (sd ?? 0)), { line: { color: colour, width: 0 }, hoverinfo: "skip", hovertemplate: null, showlegend: false, legendgroup: name, ...more });
  const customdata = means.map((each, k) => `${escapeForPlotly(name)}, epoch ${x[k]}: ${escapeForPlotly(formatMeanSd(each, metric))} over ${each.n}`);
  const line = scatter("lines", x, means.map(({ mean }) => mean), { customdata, line: { color: colour, width: 2.2, dash }, name: escapeForPlotly(name), legendgroup: name });
  const band = means.some(({ sd }) => sd) ? [edge(-1, {}), edge(1, { fill: "tonexty", fillcolor: `${colour} 0.18` })] : [];
  return [...band, line];
}

function updateGroups() {
  const ways = groupings(results);
  byId("groups").hidden = byId("groups-link").hidden = !ways.length;
  if (!ways.length) return;
  const by = ways.some(([name]) => name === view.group) ? view.group : ways[0][0];
  showOptions(byId("group-by"), ways, by);
  const { metric } = results.sweep;
  const groups = groupsOf(shownResults(), by);
  const shown = view.top ? groups.slice(0, view.top) : groups.slice(0, NUM_ROWS);
  byId("group-table").tBodies[0].replaceChildren(...shown.map((group) => {
    const best = ranked({ ...results, trials: group.trials })[0];
    return row(
      heading(group.name), cell("Trials", formatCount(group.trials.length)), cell("Finished", formatCount(group.n)),
      cell("Mean ± sd", formatMeanSd(group, metric)), cell("Best", best ? formatMetric(best.best, metric) : "–"),
      cell("Best trial", best ? openButton(best) : "–"),
    );
  }));
  setText(byId("num-groups"), `${formatCount(shown.length)} of ${formatCount(groups.length)} groups, the best mean first.`);
  showChart(byId("chart-groups"), groupChart(shownResults(), shown), "No trial of these groups has finished.");
}
