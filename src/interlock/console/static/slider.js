// Shows the value of a slider while it moves; without this file it is shown once the form was sent.
(() => {
  document.addEventListener("input", (event) => {
    const shown = event.target.dataset && event.target.dataset.shows;
    if (shown) document.getElementById(shown).textContent = event.target.value;
  });
})();
