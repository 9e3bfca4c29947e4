"""Debian's Chromium, without a window, driven by selenium."""

import contextlib
import shutil

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.support.ui import WebDriverWait

HANG = 600  # seconds
PROGRAM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
is_there = pytest.mark.skipif(not (PROGRAM and DRIVER), reason="needs Debian's packages chromium and chromium-driver")


@contextlib.contextmanager
def open_browser(folder):
    """A browser whose profile and downloads are in the folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAM
    for switch in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", f"user-data-dir={folder}/profile"):
        options.add_argument(f"--{switch}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(HANG)
    driver.command_executor.client_config.timeout = HANG
    try:
        yield driver
    finally:
        driver.quit()


def set_size(driver, width, height):
    """Of the page itself, also below the narrowest window."""
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                           {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})  # fmt: skip


def set_dark(driver, dark):
    """What the system prefers."""
    feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def until(driver, what):
    """Waits until what() is true; its value. Elements that are replaced meanwhile are looked for again."""
    passing = (IndexError, NoSuchElementException, StaleElementReferenceException)
    return WebDriverWait(driver, HANG, 0.02, passing).until(lambda _: what())


def check_page(page):
    """A report, all of it unfolded: it fits a telephone and a screen, is dark where the system is, and the browser has no complaint."""
    with open_browser(page.parent) as driver:
        driver.get(f"file://{page}")
        driver.execute_script("document.querySelectorAll('details').forEach(part => part.open = true)")
        for width in (360, 1280):
            set_size(driver, width, 800)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        for dark in (False, True):
            set_dark(driver, dark)
            colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert colour == ("rgb(17, 24, 39)" if dark else "rgb(255, 255, 255)")
        assert complaints(driver) == []


def complaints(driver):
    """What the browser's console has had since the last call, but for answers of the server that are errors."""
    said = driver.get_log("browser")
    return [entry["message"] for entry in said if entry["source"] != "network" and entry["level"] != "DEBUG"]
