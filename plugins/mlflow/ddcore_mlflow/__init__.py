"""A run's options and numbers in MLflow: every line of its log, as it is written.

MLflow: Zaharia et al., Accelerating the Machine Learning Lifecycle with MLflow, IEEE Data Engineering Bulletin 41(4),
2018. A run of ddcore is one run there, whatever processes work on it and however often it is resumed: its id lies in
      the run's folder.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from ddcore import InputError, Plugin, hookimpl, option
from ddcore.pages import numbers

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from ddcore import Run

RECORD = "mlflow.json"
LONGEST = 500
"""Letters of a parameter that MLflow takes."""


@frozen(kw_only=True, eq=False)
class MLflow(Plugin):
    """Log options, losses and scores."""

    role: ClassVar[str] = "tracker"
    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "logs options, losses and scores to MLflow"
    paper: ClassVar[str] = "Accelerating the Machine Learning Lifecycle with MLflow, IEEE Data Eng. Bull. 2018"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "graphs", "features", "dense"})

    uri: str | None = option(
        None, help="where MLflow keeps runs; none: MLflow's own (MLFLOW_TRACKING_URI)", secret=True
    )
    experiment: str = option("ddcore", help="that the run joins; it is made if it is not there")

    @hookimpl
    def ddcore_log(self, event: str, fields: Mapping[str, Any], run: "Run") -> None:
        """A metric a number; options when the run is first heard of, its end when it is done."""
        client = client_of(self.uri)
        known = run_id(client, self.experiment, run)
        for number in numbers(event, fields):
            client.log_metric(known, number.name, number.value, step=number.step)
        if event == "done":
            client.set_terminated(known)


def client_of(uri: str | None) -> "MlflowClient":
    """MLflow's client.

    Raises:
        InputError: it is not installed.
    """
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise InputError("MLflow is not installed: pip install 'ddcore-mlflow[mlflow]'") from error
    return MlflowClient(tracking_uri=uri)


def run_id(client: "MlflowClient", experiment: str, run: "Run") -> str:
    """The id of this run in MLflow; the first to ask makes it."""
    record = run.place / RECORD
    if record.exists():
        return str(record.read_json()["run_id"])
    found = client.get_experiment_by_name(experiment)
    place = client.create_experiment(experiment) if found is None else found.experiment_id
    made = str(client.create_run(place, run_name=run.place.name).info.run_id)
    record.write_json({"run_id": made, "experiment": experiment})
    for name, value in parameters(run).items():
        client.log_param(made, name, value)
    return made


def parameters(run: "Run") -> dict[str, str]:
    """What the run was begun with: every option that is not a default, the plugins and the data."""
    setup = run.setup.as_json()
    given = [name for name, source in setup["sources"].items() if source != "default"]
    found = {"plugins": "+".join(run.plugins), "dataset": setup["config"]["dataset"], "seed": str(run.seed)}
    for name in given:
        group, _, option_name = name.rpartition(".")
        values = setup["options"].get(group, {}) if group else setup["config"]
        if option_name in values and name not in found:
            found[name] = str(values[option_name])[:LONGEST]
    return found
