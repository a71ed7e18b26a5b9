"""Data sets of the Hugging Face hub, fetched through the `datasets` library where there is a network."""

import logging
import shutil
from pathlib import Path

from parle.errors import ConfigError, SetupError

HUB_IDS = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "svhn": "ufldl-stanford/svhn"}
CONFIGURATIONS = {"ufldl-stanford/svhn": "cropped_digits"}


def fetch(name: str, folder: Path, data_dir: Path | None) -> Path:
    """Write the named data set to `folder` as parquet shards, and return the folder.

    `name` is a hub id such as `ylecun/mnist`, or the short name of a known one. Raises SetupError, with the command that
    fetches it on a machine with a network, where it cannot be had.
    """
    hub_id = HUB_IDS.get(name, name)
    target = f"{data_dir or 'DIR'}/{name.rpartition('/')[2]}"
    cure = f"On a machine with a network, fetch it with `hf download --repo-type dataset {hub_id} --local-dir {target}`"
    if data_dir is None:
        cure += " and set PARLE_DATA_DIR=DIR"
    try:
        import datasets
    except ImportError:
        raise SetupError(f'Data `{name}` is not on this machine, and fetching it needs: pip install "parle-sgd[data]". {cure}.') from None
    try:
        logging.disable(logging.WARNING)  # else each of its attempts writes a line
        found = datasets.load_dataset(hub_id, CONFIGURATIONS.get(hub_id), download_config=datasets.DownloadConfig(max_retries=0))
        splits = ("train", "test", *(["extra"] if "extra" in found else []))
        shards = {f"{split}-00000-of-00001.parquet": found[split] for split in splits}
    except KeyError as error:
        raise ConfigError(
            f"Data `{name}` ({hub_id}) has no split {error}; its splits are {', '.join(found)}. Write a folder with train-*.parquet and test-*.parquet."
        ) from None
    except Exception as error:
        raise SetupError(f"Data `{name}` ({hub_id}) is not on this machine and cannot be fetched now ({type(error).__name__}). {cure}.") from error
    finally:
        logging.disable(logging.NOTSET)
    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for file, split in shards.items():
        split.to_parquet(aside / file)
    return aside.rename(folder)
