"""`playground`: builds and opens the page in which pocket is trained in a browser."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from lora_lab.cli.show import busy, say
from lora_lab.places import cache_folder, check_writable


def playground(
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the page as this file, and open nothing."),
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write it as a new folder for a web host, and open nothing."
        ),
    ] = None,
) -> None:
    """Train pocket with LoRA in one web page: nothing leaves it, and it needs no network.

    The page is one HTML file of 8 MB that holds the model, the training step and its runtime. It
    opens from disk; whoever gets the file needs nothing else. Without an option it is made in the
    cache and opened in your browser.

    \b
    Examples:
      lora-lab playground
      lora-lab playground --file playground.html
      lora-lab playground --site site/playground
    """
    from lora_lab.web import build

    if file is not None:
        with busy("Putting the page together …"):
            build.build_file(file)
        say(f"The page is in {file}.")
    if site is not None:
        with busy("Putting the site together …"):
            build.build_site(site)
        say(f"The site is in {site}.")
    if file is None and site is None:
        page = cache_folder() / "playground.html"
        check_writable(page.parent.absolute(), "--file playground.html, or LORA_LAB_CACHE")
        with busy("Putting the page together …"):
            build.build_file(page)
        if webbrowser.open(page.as_uri()):
            say(f"The page was opened in your browser: {page}")
            say("If it may not read that file, write one here: lora-lab playground --file my.html")
        else:
            say(f"No browser could be opened here; open this file in one: {page}")
