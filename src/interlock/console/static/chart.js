// Draws the requests of each minute as stacked bars; the numbers come from a JSON script beside the chart.
(() => {
  const names = ["answered", "refused", "failed"];
  const colours = { answered: "--g9", refused: "--a9", failed: "--r9" };
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const charts = new Map();

  // uPlot draws one series over the other, so each one is the sum of itself and those below it; the tallest first.
  const stacked = (rows) => {
    const sums = [];
    let below = rows.map(() => 0);
    for (const name of names) {
      below = rows.map((row, at) => below[at] + row[name]);
      sums.unshift(below);
    }
    return [rows.map((row) => row.at), ...sums];
  };
  const rowsOf = (place) => JSON.parse(document.getElementById(place.dataset.chart).textContent);
  const draw = (place) => {
    const bars = uPlot.paths.bars({ size: [0.72, 24, 1], radius: [0.18, 0] });
    const axis = { stroke: token("--text-quiet"), ticks: { show: false }, font: "12px Inter", gap: 6 };
    charts.get(place)?.destroy();
    const made = new uPlot({
      width: place.clientWidth,
      height: 208,
      padding: [10, 8, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { range: (_, from, to) => [from - 45, to + 45] }, y: { range: (_, __, most) => [0, Math.max(most * 1.12, 4)] } },
      axes: [
        { ...axis, size: 30, grid: { show: false }, values: (_, ticks) => ticks.map((at) => new Date(at * 1000).toTimeString().slice(0, 5)) },
        { ...axis, size: 44, grid: { stroke: token("--line"), width: 1 }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 20000] },
      ],
      series: [{}, ...names.map((name) => ({ fill: token(colours[name]), width: 0, paths: bars, points: { show: false } })).reverse()],
    }, stacked(rowsOf(place)), place);
    charts.set(place, made);
  };
  const all = () => { for (const place of document.querySelectorAll("[data-chart]")) draw(place); };
  const fresh = () => { for (const [place, chart] of charts) chart.setData(stacked(rowsOf(place))); };

  addEventListener("load", all);
  document.addEventListener("htmx:sseMessage", (event) => { if (event.detail.type === "minutes") fresh(); });
  let later;
  addEventListener("resize", () => { clearTimeout(later); later = setTimeout(all, 120); });
  new MutationObserver(all).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
