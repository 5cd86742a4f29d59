// Opens the dialog that a button names, and closes it by its own button or by a click beside it.
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-dialog]");
  if (opener) document.getElementById(opener.dataset.dialog).showModal();
  else if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  else if (event.target.matches("dialog[open]")) event.target.close();
});
