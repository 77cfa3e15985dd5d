// The comparison of selected trials.

function select(trialNumber, isSelected) {
  const others = view.selected.filter((each) => each !== trialNumber);
  choose({ selected: isSelected ? [...others, trialNumber] : others });
  updateComparison();
  loadDetails();
}

function updateComparison() {
  const trials = view.selected.map(trialOf).filter(Boolean);
  for (const [trialNumber, tr] of rows) {
    const box = tr.querySelector("input");
    box.checked = view.selected.includes(trialNumber);
    box.disabled = !box.checked && trials.length >= MAX_SELECTED;
  }
  byId("nothing-selected").hidden = trials.length > 0;
  byId("compared").hidden = !trials.length;
  if (!trials.length) return;
  const { metric, space } = results.sweep;
  const table = byId("comparison-table");
  const swatch = (k) => make("i", { class: "swatch", style: `background: var(${SELECTED_COLOURS[k]})` });
  const heads = trials.map((trial, k) => make("th", { scope: "col" }, swatch(k), `Trial ${trial.number}`));
  table.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col", class: "text" }, ""), ...heads));
  const line = (name, texts, isSet) => {
    const differs = isSet && new Set(texts).size > 1;
    const hint = differs ? [make("span", { class: "sr" }, " differs")] : [];
    return make("tr", differs ? { class: "differs" } : {}, make("th", { scope: "row" }, name, ...hint), ...texts.map((text) => make("td", {}, text)));
  };
  const names = shortNames(Object.keys(space));
  const figures = [...new Set(trials.flatMap((trial) => Object.keys(bestEpoch(trial))))].filter((name) => !["epoch", "seconds", metric].includes(name));
  table.tBodies[0].replaceChildren(
    ...Object.keys(space).map((name) => line(names[name], trials.map((trial) => formatSetting(trial.sample[name])), true)),
    line("State", trials.map((trial) => STATE_WORDS[trial.state] ?? trial.state)),
    line(`Best ${metricName(metric)}`, trials.map((trial) => formatMetric(trial.best, metric))),
    line("Best epoch", trials.map((trial) => formatSetting(trial.best_epoch))),
    line("Epochs", trials.map((trial) => formatCount(epochsDone(trial)))),
    line("Time", trials.map((trial) => formatDuration(trial.seconds))),
    ...figures.map((name) => line(metricName(name), trials.map((trial) => formatMetric(bestEpoch(trial)[name], name)))),
  );
  showChart(byId("chart-selected"), comparisonChart(results, trials), "None of the selected trials has finished an epoch.");
  const pictured = trials.filter((trial) => results.pictures.trials[trial.number]);
  byId("selected-portraits").replaceChildren(...(pictured.length && results.pictures.real ? [realStrip()] : []), ...pictured.map(strip));
}
