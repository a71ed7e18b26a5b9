"""When a spring pulls so hard that momentum overshoots it for ever."""


def overshoots(step: float, pull: float, rule: str, momentum: float, torch_form: bool = True) -> str | None:
    """A warning unless step * pull stays below the limit where momentum on a quadratic stops settling.

    The limit is (2 + 2 mu)/(1 + 2 mu) for Nesterov's d + mu m, as in torch, and (2 + 2 mu)/(2 + mu) for the form d + m.

    >>> overshoots(step=0.1, pull=11.0, rule="lr (1 + 1/rho)", momentum=0.9) is None
    True
    """
    limit = (2 + 2 * momentum) / (1 + 2 * momentum if torch_form else 2 + momentum)
    if step * pull < limit:
        return None
    return f"{rule} is {step * pull:.3g}; on a quadratic, replicas with momentum {momentum} settle only below {limit:.3g}. Lower lr, or raise the floor of rho."
