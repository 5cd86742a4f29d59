// Keeps "how long ago" true while a page stays open, and tells of live figures at most once in ten seconds.
(() => {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const words = (seconds) => {
    const far = Math.abs(seconds);
    const [unit, size] = units.find(([, each]) => far >= each) || ["s", 1];
    const told = `${Math.floor(far / size)} ${unit}`;
    return seconds <= -1 ? `in ${told}` : `${told} ago`;
  };
  const tick = () => {
    for (const each of document.querySelectorAll("time[data-exact]")) {
      const text = words((Date.now() - Date.parse(each.dateTime)) / 1000);
      if (each.textContent !== text) each.textContent = text;
    }
  };
  setInterval(tick, 5000);
  const live = () => document.querySelector("[data-live]");
  let spoken = 0;
  document.addEventListener("htmx:sseMessage", (event) => {
    const place = document.querySelector("[data-announce]");
    if (!place || event.detail.type !== "figures" || Date.now() - spoken < 10000) return;
    spoken = Date.now();
    const figures = document.querySelectorAll("[data-figures] dl > div");
    const told = [...figures].slice(0, 3).map((each) => `${each.children[0].textContent} ${each.children[1].textContent}`).join(", ");
    if (place.textContent !== told) place.textContent = told;
  });
  document.addEventListener("htmx:sseOpen", () => { live()?.removeAttribute("hidden"); });
  document.addEventListener("htmx:sseError", () => { live()?.setAttribute("hidden", ""); });
})();
