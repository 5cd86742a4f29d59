// Sets the theme before the page is painted, and lets the reader change it. The choice stays in this browser.
(() => {
  const root = document.documentElement;
  const wanted = () => localStorage.getItem("theme") || root.dataset.theme || "";
  const isDark = () => (wanted() || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const apply = () => { root.dataset.theme = isDark() ? "dark" : "light"; };
  apply();
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme-switch");
    if (!button) return;
    const show = () => { button.setAttribute("aria-pressed", String(isDark())); };
    show();
    button.addEventListener("click", () => {
      localStorage.setItem("theme", isDark() ? "light" : "dark");
      apply();
      show();
    });
  });
})();
