"""The catalogue of algorithms: one line each, by the name that the command line uses."""

from parle.algorithms.bmuf import BMUF
from parle.algorithms.data_parallel import DataParallel
from parle.algorithms.diloco import DiLoCo
from parle.algorithms.easgd import EASGD
from parle.algorithms.elastic_sgd import ElasticSGD
from parle.algorithms.ema import EMA
from parle.algorithms.entropy_sgd import EntropySGD
from parle.algorithms.fed_prox import FedProx
from parle.algorithms.local_sgd import LocalSGD
from parle.algorithms.lookahead import Lookahead
from parle.algorithms.one_shot import OneShot
from parle.algorithms.parle import Parle
from parle.algorithms.parle_dev2017 import ParleDev2017
from parle.algorithms.parle_moving import ParleMoving
from parle.algorithms.parle_release2018 import ParleRelease2018
from parle.algorithms.plain_sgd import PlainSGD
from parle.algorithms.server_sgd import ServerSGD
from parle.algorithms.slow_mo import SlowMo
from parle.algorithms.streaming_diloco import StreamingDiLoCo
from parle.algorithms.swa import SWA

ALGORITHMS = {
    "parle": Parle,
    "parle-dev2017": ParleDev2017,
    "parle-release2018": ParleRelease2018,
    "parle-moving": ParleMoving,
    "entropy-sgd": EntropySGD,
    "elastic-sgd": ElasticSGD,
    "local-sgd": LocalSGD,
    "fedprox": FedProx,
    "one-shot": OneShot,
    "slowmo": SlowMo,
    "bmuf": BMUF,
    "diloco": DiLoCo,
    "streaming-diloco": StreamingDiLoCo,
    "easgd": EASGD,
    "data-parallel": DataParallel,
    "server-sgd": ServerSGD,
    "sgd": PlainSGD,
    "lookahead": Lookahead,
    "ema": EMA,
    "swa": SWA,
}

# The variants of an algorithm. A short run of the command line takes the first: see docs/decisions/0002.
VARIANTS = {"parle": {"dev2017": ParleDev2017, "paper": Parle, "release2018": ParleRelease2018, "moving": ParleMoving}}
