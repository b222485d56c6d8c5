// Fetches the page again every two seconds and puts its new content in place. Without this script the page reloads itself.
const refresh = async () => {
  try {
    const answer = await fetch("/", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    document.title = page.title;
  } catch {
    const stale = document.getElementById("stale");
    stale.hidden = false;
  }
  setTimeout(refresh, 2000);
};
setTimeout(refresh, 2000);
