"""Plugins that do what a plugin should not, as sources of one module named ``plug``."""

from support.shell import TINY_TASK

GOOD_OPTIMIZER = '''
import dataclasses
import torch
from apo_bench import Competitor, TorchRule, hyperparameter


@dataclasses.dataclass(frozen=True)
class Plug:
    """A plugin."""
    lr: float = hyperparameter(0.1)


plug = Competitor(Plug, lambda problem, h: TorchRule(problem, torch.optim.SGD(problem.parameters, lr=h.lr)))
'''

UNUSABLE_OPTIMIZERS = {
    "imports-what-is-not-there": ("import no_such_module_anywhere", "fails to import (ModuleNotFoundError: "),
    "has-no-such-object": ("other = 1", "fails to import (AttributeError: "),
    "syntax-error": ("def plug(:", "fails to import (SyntaxError: "),
    "null-character": ("plug = 1\0", "fails to import (SyntaxError: "),
    "bad-coding": ("# coding: no-such-coding\n", "fails to import (SyntaxError: "),
    "raises": ("raise RuntimeError('boom')", "fails to import (RuntimeError: boom); fix or uninstall"),
    "raises-without-words": ("raise RuntimeError", "fails to import (RuntimeError); fix or uninstall"),
    "asserts": ("assert 1 > 2", "fails to import (AssertionError); "),
    "exits": ("raise SystemExit(0)", "fails to import (SystemExit: 0); "),
    "exits-with-words": ("import sys; sys.exit('good bye')", "fails to import (SystemExit: good bye); "),
    "exits-at-once": ("import os; os._exit(0)", "fails to import (SystemExit: os._exit(0)); "),
    "exits-behind-os": ("from posix import _exit; _exit(7)", "fails to import (SystemExit: os._exit(7)); "),
    "interrupts": ("raise KeyboardInterrupt", "fails to import (KeyboardInterrupt); "),
    "no-exception": ("class Mine(BaseException): pass\nraise Mine('hm')", "fails to import (Mine: hm); "),
    "generator-exit": ("raise GeneratorExit", "fails to import (GeneratorExit); "),
    "group": ("raise ExceptionGroup('two', [ValueError(1), TypeError(2)])", "fails to import (ExceptionGroup: two (2 "),
    "recursion": ("def f(): return f()\nf()", "fails to import (RecursionError: "),
    "memory": ("x = bytearray(2 ** 62)", "fails to import (MemoryError"),
    "usage-error": ("from apo_bench.errors import UsageError\nraise UsageError('mine')", "fails to import (mine); "),
    "words-that-raise": (
        "class E(Exception):\n    def __str__(self): raise ValueError('no')\nraise E",
        "fails to import (E: its message cannot be made (ValueError)); ",
    ),
    "words-that-exit": (
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\nraise E",
        "fails to import (E: its message cannot be made (SystemExit)); ",
    ),
    "words-that-are-none": (
        "class E(Exception):\n    def __str__(self): return None\nraise E",
        "fails to import (E: its message cannot be made (TypeError)); ",
    ),
    "ten-megabytes": ("raise ValueError('x' * 10_000_000)", "fails to import (ValueError: xxxxx"),
    "many-lines": ("raise ValueError('one\\n\\ntwo\\n' * 1000)", "fails to import (ValueError: one); "),
    "begins-with-lines": ("raise ValueError('\\n\\n  one')", "fails to import (ValueError: one); "),
    "escapes": ("raise ValueError('\\x1b[2J\\u202egone')", "fails to import (ValueError: "),
    "surrogates": ("raise ValueError('a\\udcffb')", "fails to import (ValueError: a\\udcffb); "),
    "name-that-raises": (
        "class M(type):\n    @property\n    def __name__(self): raise ValueError\n"
        "class E(Exception, metaclass=M): pass\nraise E('hm')",
        "fails to import (E: hm); ",
    ),
    "forgets-itself": ("import sys\ndel sys.modules['plug']", "fails to import (KeyError: 'plug'); "),
    "none": ("plug = None", "is a NoneType; register a Competitor"),
    "text": ("plug = 'sgd'", "is a str; register a Competitor"),
    "class": ("class plug: pass", "is the class plug; register a Competitor"),
    "function": ("def plug(): pass", "is a function; register a Competitor"),
    "pretends": ("class Any:\n    __class__ = property(lambda self: 1 / 0)\nplug = Any()", "is a Any; register a Competitor"),
    "raises-for-every-name": (
        "class Any:\n    def __getattribute__(self, name): raise ValueError(name)\nplug = Any()",
        "is a Any; register a Competitor",
    ),
    "comparison-that-raises": (
        "class Any:\n    def __eq__(self, other): raise ValueError\n    __hash__ = None\n    __bool__ = __eq__\nplug = Any()",
        "is a Any; register a Competitor",
    ),
    "lazy-attribute": ("def __getattr__(name): raise SystemExit(3)", "fails to import (SystemExit: 3); "),
    "no-dataclass": (f"{GOOD_OPTIMIZER}\nclass Bare: lr = 0.1\nplug = Competitor(Bare, plug.build)", "Bare are no dataclass; put"),
    "hyperparameters-made": (f"{GOOD_OPTIMIZER}\nplug = Competitor(Plug(), plug.build)", "Plug are no dataclass; put"),
    "hyperparameters-none": (f"{GOOD_OPTIMIZER}\nplug = Competitor(None, plug.build)", "NoneType are no dataclass; put"),
    "build-none": (f"{GOOD_OPTIMIZER}\nplug = Competitor(Plug, None)", "its build is a NoneType; give a function"),
    "reference-number": (f"{GOOD_OPTIMIZER}\nplug = Competitor(Plug, plug.build, reference=7)", "its reference is a int; give"),
    "precisions-none": (f"{GOOD_OPTIMIZER}\nplug = Competitor(Plug, plug.build, in_precision=None)", "its in_precision is a NoneType"),
    "precisions-of-nothing": (
        f"{GOOD_OPTIMIZER}\nplug = Competitor(Plug, plug.build, in_precision={{'fp16': {{'eps': 1.0}}}})",
        "has no hyperparameter 'eps'",
    ),
    "property-that-raises": (
        f"{GOOD_OPTIMIZER}\nclass Lazy(Competitor):\n    left_alone = property(lambda self: 1 / 0, lambda self, v: None)\n"
        "plug = Lazy(Plug, plug.build)",
        "cannot be made (ZeroDivisionError: division by zero); fix or uninstall",
    ),
}  # fmt: skip
"""By name, the source and what the line says after "'plug' from plug 1.0"."""

_DEFAULTS = {
    "list": ("(1, 2)", "has the default (1, 2), of type tuple; it must be"),
    "infinite": ("float('inf')", "must be a value that a record can hold (got inf"),
    "nan": ("float('nan')", "must be a value that a record can hold (got nan"),
    "huge": ("10 ** 400", "must be a value that a record can hold (got an integer of more than 64 bits); use"),
    "long": ("'x' * 1000", "must be a value that a record can hold (got a text of 1000 characters); use at most 200"),
    "escapes": ("'\\x1b[2J'", "(got '\\x1b[2J'); use characters that can be printed"),
    "surrogate": ("'\\udcff'", "(got '\\udcff'); use characters that can be printed"),
    "words-that-raise": ("Odd()", "has the default (cannot be shown: ZeroDivisionError: "),
    "attributes-that-raise": ("Worse()", "of type Worse; it must be"),
    "function": ("print", "of type builtin_function_or_method; it must be"),
}
UNUSABLE_OPTIMIZERS |= {
    f"default-{name}": (
        f"""{GOOD_OPTIMIZER}
class Odd:
    __repr__ = lambda self: 1 / 0
class Worse:
    def __getattr__(self, name): raise RuntimeError(name)
@dataclasses.dataclass(frozen=True)
class Fields:
    a: object = dataclasses.field(default=None)
Fields.__dataclass_fields__['a'].default = {default}
plug = Competitor(Fields, plug.build)
""",
        line,
    )
    for name, (default, line) in _DEFAULTS.items()
}

_FIELDS = {
    "no-data": ("dataset=None", "dataset is a NoneType; give a Dataset"),
    "a-class-of-data": ("dataset=Dataset", "dataset is a type; give a Dataset"),
    "no-load": ("dataset=Dataset('tiny', None, lambda: '1')", "dataset's load is a NoneType; give a function"),
    "no-digest": ("dataset=Dataset('tiny', load, '1')", "dataset's digest is a str; give a function"),
    "no-name-of-data": ("dataset=Dataset(None, load, lambda: '1')", "dataset's name is a NoneType; give a text"),
    "sizes": ("dataset=Dataset('tiny', load, lambda: '1', sizes=(1, 2))", "dataset's sizes are (1, 2); give three"),
    "negative-sizes": ("dataset=Dataset('tiny', load, lambda: '1', sizes=(-1, 2, 3))", "dataset's sizes are (-1, 2, 3); give"),
    "no-model": ("model=None", "model is a NoneType; give a function"),
    "a-made-model": ("model_name=3", "model_name is a int; give a text"),
    "no-name-of-model": ("model_name=''", "model_name is a text of 0 characters; give a text of 1 to 200"),
    "long-name-of-model": ("model_name='x' * 10 ** 6", "model_name is a text of 1000000 characters; give a text"),
    "no-objective": ("objective=None", "objective's loss is a NoneType; give a function"),
    "no-metric": ("metric=None", "metric is a NoneType; give a Metric"),
    "a-class-of-metric": ("metric=int", "metric is a type; give a Metric"),
    "metric-without-direction": (
        "metric=type('M', (), {'name': 'm', 'direction': 'up', 'total': lambda *a: 0})()",
        "metric's direction is a str; give a Direction",
    ),
    "metric-that-raises": (
        "metric=type('M', (), {'name': property(lambda self: 1 / 0), 'direction': 1, 'total': lambda *a: 0})()",
        "cannot be made (ZeroDivisionError: ",
    ),
    "no-batch": ("batch_size=0", "batch_size is 0; give a whole number of at least 1"),
    "negative-batch": ("batch_size=-5", "batch_size is -5; give a whole number of at least 1"),
    "half-a-batch": ("batch_size=0.5", "batch_size is 0.5; give a whole number of at least 1"),
    "batch-of-words": ("batch_size='32'", "batch_size is a str; give a whole number of at least 1"),
    "huge-batch": ("batch_size=10 ** 30", "give a whole number of at least 1"),
    "no-interval": ("evaluation_interval=0", "evaluation_interval is 0; give a whole number of at least 1"),
    "target-of-nothing": ("target=90.0", "target is a float; give a Target, or None"),
    "target-nan": ("target=Target(float('nan'))", "target is nan; give a finite number"),
    "target-text": ("target=Target('90')", "target is a str; give a finite number"),
    "trivial-infinite": ("trivial=float('inf')", "trivial is inf; give a finite number"),
    "source-none": ("source=None", "source is a NoneType; give a text"),
}  # fmt: skip

_CALLED = {
    "raises": ("raise KeyError('here')", "cannot be made (KeyError: 'here'); fix or uninstall"),
    "exits": ("raise SystemExit(0)", "cannot be made (SystemExit: 0); fix or uninstall"),
    "interrupts": ("raise KeyboardInterrupt", "cannot be made (KeyboardInterrupt); fix or uninstall"),
    "returns-nothing": ("pass", "makes a NoneType; its function has to return a Task"),
    "returns-text": ("return 'task'", "makes a str; its function has to return a Task"),
    "returns-the-class": ("return Task", "makes a type; its function has to return a Task"),
    "yields": ("yield tiny()", "makes a generator; its function has to return a Task"),
    "without-fields": ("return Task()", "cannot be made (TypeError: Task.__init__() missing 6 required"),
    "pretends": ("return type('T', (), {'__class__': Task})()", "makes a T; its function has to return a Task"),
}

UNUSABLE_TASKS = {
    name: (f"{TINY_TASK}\n\ndef plug():\n    {body}\n", line) for name, (body, line) in _CALLED.items()
} | {
    name: (
        f"{TINY_TASK}\nimport dataclasses\nfrom apo_bench import Target\n\ndef plug():\n"
        f"    return dataclasses.replace(tiny(), {change})\n",
        line,
    )
    for name, (change, line) in _FIELDS.items()
}
UNUSABLE_TASKS["number"] = ("plug = 3", "is a int; register a function that returns a Task")
UNUSABLE_TASKS["wants-more"] = ("def plug(n): pass", "cannot be made (TypeError: plug() missing 1 required")

DIGESTS = {
    "raises": ("1 / 0", "has no digest (ZeroDivisionError: division by zero); fix its plugin"),
    "exits": ("__import__('sys').exit(0)", "has no digest (SystemExit: 0); fix its plugin"),
    "none": ("None", "has a NoneType as its digest; return a text"),
    "number": ("7", "has a int as its digest; return a text"),
    "long": ("'x' * 10 ** 6", "has a text of 1000000 characters as its digest; return a text"),
    "escapes": ("'\\x1b[2J'", "has a text of 4 characters as its digest; return a text"),
}
"""By name, an expression and the line about it."""

MEDDLERS = {
    "prints": "print('hello'); import os; os.system('echo hello; echo hello >&2')",
    "changes-folder": "import os; os.chdir('/')",
    "closes-stdout": "import sys; sys.stdout.close()",
    "closes-descriptors": "import os; os.close(1); os.close(2)",
    "replaces-streams": "import sys, io; sys.stdout = io.StringIO(); sys.stderr = None",
    "handles-signals": "import signal\nfor s in (2, 15, 1): signal.signal(s, signal.SIG_IGN)",
    "sets-an-alarm": "import signal; signal.setitimer(signal.ITIMER_REAL, 0.5)",
    "mask": "import os; os.umask(0o777)",
    "locale": "import locale; locale.setlocale(locale.LC_ALL, 'C')",
    "warnings": "import warnings; warnings.simplefilter('error')",
    "recursion": "import sys; sys.setrecursionlimit(400)",
    "hook": "import sys; sys.excepthook = print",
    "garbage": "import gc; gc.disable()",
    "seeds": "import torch, random, numpy; torch.manual_seed(1); random.seed(1); numpy.random.seed(1)",
    "dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "device": "import torch; torch.set_default_device('meta')",
    "gradients": "import torch; torch.set_grad_enabled(False)",
    "threads": "import torch; torch.set_num_threads(3)",
    "deterministic": "import torch; torch.use_deterministic_algorithms(True, warn_only=True)",
    "forks": "import os, sys\nif os.fork() == 0: sys.exit(0)",
    "starts-a-thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(0.3,)).start()",
}
"""By name, what is done in passing; the optimizer is a good one."""

RULES = {
    "changes-folder": (["os.chdir('/')"], "exhausted"),
    "closes-streams": (["sys.stdout.close()", "sys.stderr.close()"], "exhausted"),
    "closes-descriptors": (["os.close(1) if self.steps == 1 else None", "os.close(2) if self.steps == 1 else None"], "exhausted"),
    "clears-the-environment": (["os.environ.clear()"], "exhausted"),
    "ignores-signals": (["signal.signal(signal.SIGTERM, signal.SIG_IGN)"], "exhausted"),
    "starts-a-process": (["import subprocess", "subprocess.Popen(['sleep', '5']) if self.steps == 1 else None"], "exhausted"),
    "starts-a-thread": (["import threading", "threading.Thread(target=time.sleep, args=(600,)).start() if self.steps == 1 else None"], "exhausted"),
    "makes-warnings-errors": (["import warnings", "warnings.simplefilter('error')"], "exhausted"),
    "prints-megabytes": (["print('x' * 1000)"] * 50, "exhausted"),
    "forks": (["import os", "os.fork() if self.steps == 2 else None"], "exhausted"),
    "raises": (["raise ValueError('no')"], "failed"),
    "raises-without-words": (["raise ValueError"], "failed"),
    "words-that-raise": (["class E(Exception):", "    def __str__(self): raise SystemExit(0)", "raise E"], "failed"),
    "ten-megabytes": (["raise ValueError('x' * 10_000_000)"], "failed"),
    "escapes": (["raise ValueError('\\x1b[2J\\u202e\\n<script>|')"], "failed"),
    "surrogates": (["raise ValueError('\\udcff')"], "failed"),
    "recursion": (["return self.step(batch)"], "failed"),
    "memory": (["bytearray(2 ** 62)"], "out-of-memory"),
    "exits": (["sys.exit(0)"], "crashed"),
    "exits-at-once": (["os._exit(0)"], "crashed"),
    "interrupts": (["raise KeyboardInterrupt"], "crashed"),
    "no-exception": (["class E(BaseException): pass", "raise E('mine')"], "crashed"),
    "removes-its-folder": (["import shutil", "shutil.rmtree(os.path.dirname(os.readlink('/proc/self/fd/1')))"], "crashed"),
}  # fmt: skip
"""By name, what an optimizer does at each step, and the outcome of its run."""

_PARTS = {
    "load-raises": "dataset=Dataset('tiny', lambda: 1 / 0, lambda: '1')",
    "load-exits": "dataset=Dataset('tiny', lambda: __import__('sys').exit(0), lambda: '1')",
    "load-leaves": "dataset=Dataset('tiny', lambda: __import__('os')._exit(0), lambda: '1')",
    "load-gives-nothing": "dataset=Dataset('tiny', lambda: None, lambda: '1')",
    "load-gives-text": "dataset=Dataset('tiny', lambda: 'splits', lambda: '1')",
    "no-examples": "dataset=Dataset('tiny', lambda: Splits(examples(0, 0), examples(1, 0), examples(2, 0)), lambda: '1')",
    "targets-out-of-range": "dataset=Dataset('tiny', lambda: Splits(*(dataclasses.replace(e, targets=e.targets + 7) for e in (examples(0, 64), examples(1, 64), examples(2, 64)))), lambda: '1')",
    "model-raises": "model=lambda: 1 / 0",
    "model-is-text": "model=lambda: 'network'",
    "model-exits": "model=lambda: __import__('sys').exit(0)",
    "outputs-are-text": "model=lambda: type('M', (nn.Linear,), {'forward': lambda self, x: 'outputs'})(8, 2)",
    "metric-exits": "metric=made(lambda: __import__('sys').exit(0))",
    "metric-raises": "metric=made(lambda: 1 / 0)",
    "metric-is-text": "metric=made(lambda: 'good')",
    "metric-is-complex": "metric=made(lambda: 1j)",
    "metric-is-none": "metric=made(lambda: None)",
    "metric-is-nan": "metric=made(lambda: float('nan'))",
    "metric-is-infinite": "metric=made(lambda: torch.tensor(float('inf')))",
    "metric-is-huge": "metric=made(lambda: 10 ** 400)",
    "metric-is-a-matrix": "metric=made(lambda: torch.zeros(2, 2))",
}  # fmt: skip

TASKS_IN_RUNS = {
    name: f"""{TINY_TASK}
import dataclasses
from apo_bench.plugins.task import Direction


class Made(Accuracy):
    name = 'made up'

    def __init__(self, value):
        self.value = value

    def total(self, outputs, batch):
        return self.value()


made = Made


def plug():
    return dataclasses.replace(tiny(), {change})
"""
    for name, change in _PARTS.items()
}
"""By name, a task of which a plan can be made, and no result."""
