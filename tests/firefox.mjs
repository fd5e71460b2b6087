// One walk through the playground in Firefox, by WebDriver BiDi: node firefox.mjs FIREFOX ADDRESS.
//
// Prints what it saw as JSON. test_playground_firefox.py judges it. puppeteer-core drives Firefox:
// Playwright takes only its own builds of it.

import puppeteer from "puppeteer-core";

const [, , program, address] = process.argv;
const PATIENCE = 300_000; // milliseconds: the machine of a test may be busy
const PROMPT = "Milin Fenby has which job?";

const seen = { requests: [], complaints: [] };
const browser = await puppeteer.launch({
  browser: "firefox",
  executablePath: program,
  headless: true,
  protocolTimeout: PATIENCE,
});

async function open(link) {
  const page = await browser.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("request", request => seen.requests.push(request.url()));
  page.on("console", message => seen.complaints.push(message.text()));
  page.on("pageerror", error => seen.complaints.push(String(error)));
  await page.goto(`${address}#${link}`);
  await until(page, () => document.documentElement.dataset.ready);
  return page;
}

const until = (page, reached) => page.waitForFunction(reached, { polling: 100 });
const text = (page, name) => page.$eval(`#${name}`, element => element.textContent);
const trained = page =>
  until(page, () => /^(trained|not trained)/.test(document.getElementById("state").textContent));

async function losses(page) {
  await page.click("#numbers summary");
  await until(page, () => document.getElementById("losses").textContent.includes("\n1\t"));
  const lines = (await text(page, "losses")).split("\n").slice(1);
  return lines.map(line => Number(line.split("\t")[1]));
}

try {
  const page = await open("task=new-facts&n=20&steps=20&learning_rate=0.002&seed=0");
  seen.browser = await browser.version();
  seen.ready = await text(page, "state");
  await page.click("#train");
  seen.asked = await text(page, "state");
  await page.locator("::-p-text(all 32)").click();
  await page.click("#train");
  await trained(page);
  seen.state = await text(page, "state");
  seen.guess = await text(page, "guess");
  seen.film = await text(page, "film-title");
  seen.meters = await text(page, "meters");
  seen.losses = await losses(page);
  await page.click("input[name=code][value=lab]");
  seen.code = await text(page, "code");

  await page.click("#keep");
  seen.kept = await page.$$eval("#kept tbody tr", rows => rows.map(row => row.textContent));
  const link = await page.evaluate(() => location.hash.slice(1));

  await page.type("#own-prompt", PROMPT);
  await page.click("#ask button");
  await until(page, () => document.querySelectorAll("#own-answer dd").length === 2);
  seen.prompt = PROMPT;
  seen.answers = await page.$$eval("#own-answer dd code", all => all.map(one => one.textContent));

  await page.evaluate(() => {
    location.hash = "task=new-facts&n=20&steps=200&seed=1";
  });
  await page.click("#train");
  await until(page, () => /^step [3-9]/.test(document.getElementById("state").textContent));
  await page.click("#stop");
  await until(page, () => document.getElementById("state").textContent.startsWith("stopped"));
  seen.stopped = await text(page, "state");
  await page.close();

  const other = await open(link);
  seen.notice = await text(other, "notices");
  await other.click("#train");
  await other.click("#train"); // the first click asks for a guess
  await trained(other);
  seen.replayed = await losses(other);
  seen.metersAgain = await text(other, "meters");
} finally {
  await browser.close();
}
console.log(JSON.stringify(seen));
