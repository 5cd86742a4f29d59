// Where the screens have no room beside the page, a button shows and hides them.
document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("menu-open");
  const screens = document.getElementById("screens");
  button.addEventListener("click", () => {
    button.setAttribute("aria-expanded", String(screens.classList.toggle("is-open")));
  });
});
