// Draws the requests of each minute as stacked steps; the numbers come from a JSON script beside the chart.
(() => {
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const draw = (place) => {
    const rows = JSON.parse(document.getElementById(place.dataset.chart).textContent);
    const times = rows.map((row) => row.at);
    const answered = rows.map((row) => row.answered);
    const refused = rows.map((row) => row.answered + row.refused);
    const failed = rows.map((row) => row.answered + row.refused + row.failed);
    const steps = uPlot.paths.stepped({ align: 1 });
    const area = (label, colour) => ({ label, stroke: token(colour), fill: token(colour), width: 0, paths: steps, points: { show: false } });
    const axis = { stroke: token("--text-quiet"), grid: { stroke: token("--line"), width: 1 }, ticks: { show: false }, font: "12px Inter" };
    place.replaceChildren();
    return new uPlot({
      width: place.clientWidth - 8,
      height: 220,
      legend: { live: false },
      cursor: { show: false },
      scales: { y: { range: (_, __, most) => [0, Math.max(most * 1.15, 4)] } },
      axes: [axis, { ...axis, size: 44 }],
      series: [{}, area("failed", "--r9"), area("refused", "--a9"), area("answered", "--g9")],
    }, [times, failed, refused, answered], place);
  };
  const all = () => { for (const place of document.querySelectorAll("[data-chart]")) draw(place); };
  addEventListener("load", all);
  let later;
  addEventListener("resize", () => { clearTimeout(later); later = setTimeout(all, 150); });
  new MutationObserver(all).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
