"""Writes one page of HTML about a fit and its forecasts. It needs no other file."""

from html import escape
from pathlib import Path

from llmdata.output import write_text
from llmdata.page import figure, number, table, whole

from . import charts
from .accuracy import Task, TaskForecast
from .fit_tables import between, four
from .fitted import Fitted
from .forecast import FACTORS, TOLERANCE, Forecast, Value
from .plan_tables import si
from .resample import LEVEL


class Report:
    def __init__(self, name: str, fitted: Fitted, forecasts: list[Forecast], task: tuple[Task, TaskForecast] | None = None):
        self.name, self.fitted, self.forecasts, self.task = name, fitted, forecasts, task

    def write(self, path: Path) -> None:
        write_text(path, self.html())

    def html(self) -> str:
        p = self.fitted.points
        head = (f"{len(p)} runs, {len(p.budgets())} budgets of {p.budget.min():.3g} to {p.budget.max():.3g} FLOPs; N counts "
                f"{escape(p.count or 'what the table says')}; intervals hold {LEVEL:.0%}")  # fmt: skip
        parts = [self.left_out(), self.parabolas(), self.parametric(), self.disagreement(), self.forecast(), self.tests(),
                 self.runs()]  # fmt: skip
        return whole(self.name, f"Scaling laws: {self.name}", head, "".join(parts))

    def left_out(self) -> str:
        rows = [[escape(name), escape(status), escape(reason)] for name, status, reason in self.fitted.points.left_out]
        return "<h2>Runs left out</h2>" + table(["run", "", "why"], rows) if rows else ""

    def parabolas(self) -> str:
        found, laws = self.fitted.isoflop, ""
        rows = []
        for p in found.parabolas:
            if p.outside:
                rows.append([f"{p.budget:.3g}", str(len(p.x)), f"{p.outside}: not used", "", "", ""])
                laws += f"<p>{p.budget:.3g} FLOPs: {escape(p.advice)}.</p>"
            else:
                rows.append([f"{p.budget:.3g}", str(len(p.x)), between(Value(p.tokens, *p.tokens_interval)), si(p.parameters),
                             f"{p.tokens / p.parameters:.1f}", f"{p.lowest:.4f}"])  # fmt: skip
        pictures = [figure("Loss of each budget over its tokens (paper, figure 2)", charts.parabolas(self.fitted))]
        if found.tokens:
            for name, what, law in (("Tokens", "tokens", found.tokens), ("Size", "parameters", found.parameters)):
                low, high = law.exponent_interval()
                laws += f"<p>{name}: {law.factor:.4g} C<sup>{law.exponent:.4f}</sup>, exponent {low:.3f} to {high:.3f}.</p>"
                svg = charts.power_law(self.fitted, what, self.forecasts)
                pictures.append(figure(f"{name} at the minima (paper, figure 3)", svg))
        head = ["FLOPs", "runs", "tokens at the minimum", "parameters", "tokens/parameter", "loss"]
        return ("<h2>Parabolas</h2>" + table(head, rows, numbers=tuple(range(6)))
                + f"{laws}<div class=\"charts\">{''.join(pictures)}</div>")  # fmt: skip

    def parametric(self) -> str:
        fit, named = self.fitted.parametric, self.fitted.parametric.law.named
        law = (f"L(N, D) = {named['E']:.4f} + {named['A']:.5g} / N<sup>{named['alpha']:.4f}</sup> + {named['B']:.5g} / "
               f"D<sup>{named['beta']:.4f}</sup>")  # fmt: skip
        text = (f"<p>{law}; sum of Huber losses {fit.objective:.6g}, noise {fit.noise:.2%}. Exponents of the optimum: tokens "
                f"{fit.law.token_exponent:.4f}, size {fit.law.size_exponent:.4f}.</p>")  # fmt: skip
        pictures = [figure("Residuals of the parametric law, in the colours of the budgets", charts.residuals(self.fitted)),
                    figure("Loss over FLOPs", charts.loss_of_budget(self.fitted, self.forecasts))]  # fmt: skip
        return f'<h2>Parametric law</h2>{text}<div class="charts">{"".join(pictures)}</div>'

    def disagreement(self) -> str:
        return f"<h2>How far the two disagree</h2><p>{escape(self.fitted.disagreement_text)}</p>"

    def forecast(self) -> str:
        if not self.forecasts:
            return ""
        rows = [[f"{f.budget:.3g} ({f.beyond:.3g}x)", between(f.parameters), between(f.parabola_parameters), between(f.tokens),
                 between(f.loss, four), f"{four(f.run_loss.low)} to {four(f.run_loss.high)}"] for f in self.forecasts]  # fmt: skip
        flat = [[f"{f.budget:.3g}", f"{si(f.flatness.low)} to {si(f.flatness.high)}",
                 *(f"{f.flatness.factors[k]:+.2%}" for k in FACTORS)] for f in self.forecasts]  # fmt: skip
        columns = ["FLOPs", f"parameters within {TOLERANCE:.1%}", *(f"{k:g} x" for k in FACTORS)]
        head = ["FLOPs", "parameters", "by parabolas", "tokens", "loss", "loss of one run"]
        pictures = [figure("How flat the optimum is", charts.flat(self.fitted, self.forecasts[-1]))]
        if self.task:
            pictures.append(figure("Accuracy (paper, figure 4)", charts.task(*self.task, self.forecasts[-1].budget)))
        return ("<h2>Forecast</h2>" + table(head, rows, numbers=tuple(range(6)))
                + table(columns, flat, numbers=tuple(range(6)))
                + f"<div class=\"charts\">{''.join(pictures)}</div>")  # fmt: skip

    def tests(self) -> str:
        rows = [[escape(t.name), f"{t.budget:.3g}", si(t.parameters), si(t.tokens), four(t.loss), between(t.forecast, four),
                 "inside" if t.inside else "outside"] for t in self.fitted.trials()]  # fmt: skip
        head = ["run", "FLOPs", "parameters", "tokens", "loss", "forecast", ""]
        return "<h2>Runs that test a forecast</h2>" + table(head, rows, numbers=(1, 2, 3, 4, 5)) if rows else ""

    def runs(self) -> str:
        p = self.fitted.points
        law = self.fitted.parametric.law.loss(p.parameters, p.tokens)
        rows = [[escape(name), f"{b:.3g}", f"{c:.4g}", si(n), si(d), f"{d / n:.1f}", number(loss, 5),
                 f"{100 * (loss / at - 1):+.2f}"]
                for name, b, c, n, d, loss, at in zip(p.names, p.budget, p.flops, p.parameters, p.tokens, p.loss, law)]  # fmt: skip
        head = ["run", "budget", "FLOPs", "parameters", "tokens", "tokens/parameter", "loss", "% above the law"]
        return "<h2>Runs</h2>" + table(head, rows, numbers=tuple(range(1, 8)))
