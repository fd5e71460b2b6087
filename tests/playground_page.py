"""The playground's page for tests: open in Chromium, and used as a person uses it."""

from urllib.parse import parse_qs

from playground import PATIENCE

SHORT = "task=new-facts&n=20&steps=6&learning_rate=0.005&seed=0"


class Playground:
    """An open page, and the actions of a person on it."""

    def __init__(self, browser, file, link="", script="", **context):
        self.address = f"{file.as_uri()}{'#' if link else ''}{link}"
        self.context = browser.new_context(accept_downloads=True, **context)
        self.context.add_init_script(script)  # runs before the page's own
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(self.address)
        self.opened()

    def opened(self):
        """Wait until the page can train."""
        self.wait("() => document.documentElement.dataset.ready")

    def wait(self, reached, given=None):
        self.page.wait_for_function(reached, arg=given, polling=100)

    def go(self, link):
        """Go to another link in the same page, as if it had been typed into the address."""
        self.page.evaluate("link => { location.hash = link; }", link)
        self.page.wait_for_timeout(50)

    def unseen(self):
        """Requests that left the page, and its errors: there should be none."""
        beyond = [url for url in self.requests if not url.startswith(("data:", "blob:"))]
        return {url.partition("#")[0] for url in beyond}, self.complaints

    def text(self, name):
        return self.page.inner_text(f"#{name}")

    def set(self, name, value):
        self.page.fill(f"#setting-{name}", str(value))
        self.page.press(f"#setting-{name}", "Tab")

    def click(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def ended(self, said="trained"):
        self.wait("said => document.getElementById('state').textContent.includes(said)", said)
        return self.text("state")

    def train(self):
        self.page.evaluate("() => { document.getElementById('state').textContent = ''; }")
        self.click("Train")
        if "First a guess" in self.text("state"):
            self.click("Train")
        self.wait(
            "() => /^(trained|ended|stopped|not trained)/.test("
            "document.getElementById('state').textContent)"
        )
        return self.text("state")

    def losses(self):
        """The loss of each step, as the page lists them."""
        if not self.page.evaluate("() => document.getElementById('numbers').open"):
            self.page.get_by_text("The losses as numbers").click()
        self.wait("() => document.getElementById('losses').textContent.includes('\\n1\\t')")
        return [float(line.split("\t")[1]) for line in self.text("losses").splitlines()[1:]]

    def link(self):
        return {name: values[0] for name, values in self.hash().items()}

    def hash(self):
        return parse_qs(self.page.evaluate("() => location.hash.slice(1)"))
