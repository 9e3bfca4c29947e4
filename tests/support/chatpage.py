"""The chat page in a browser, as a reader uses it."""

from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import browser


class ChatPage:
    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self):
        """With an empty storage, all models chosen."""
        self.driver.get(f"{self.url}static/icon.svg")  # no script that would still write
        self.driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        self.reload()
        for box in self.all("#models input:not(:checked)"):
            box.click()

    def reload(self):
        self.driver.get(self.url)
        self.until(lambda: self.all("#models input") or self.text("#status"))

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.one(selector).text

    def texts(self, selector):
        return [element.text for element in self.all(selector)]

    def until(self, what):
        return browser.until(self.driver, what)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def fill(self, selector, text):
        """A field's new value, as from the keyboard."""
        field = self.one(selector)
        field.clear()
        field.send_keys(text, Keys.TAB)

    def choose(self, *models):
        for box in self.all("#models input"):
            if box.is_selected() != (box.get_attribute("value") in models):
                box.click()

    def send(self, text):
        """Returns when the answers begin."""
        turns = len(self.all(".turn"))
        self.one("#prompt").send_keys(text, Keys.ENTER)
        self.until(lambda: len(self.all(".turn")) > turns)

    def wait(self):
        """Until all answers are complete."""
        self.until(lambda: self.one("#log").get_attribute("aria-busy") == "false")

    def ask(self, text):
        self.send(text)
        self.wait()

    def tokens(self):
        return [token.get_property("textContent") for token in self.all(".token")]

    def button(self, selector, label):
        """That button in the last element of the selector."""
        return next(button for button in self.all(selector)[-1].find_elements(By.TAG_NAME, "button") if button.text == label)

    def key(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def hover(self, element):
        ActionChains(self.driver).move_to_element(element).perform()
