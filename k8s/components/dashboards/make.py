"""Make the Grafana dashboards beside this file.  python k8s/components/dashboards/make.py"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
RATE = "$__rate_interval"
NAMESPACE = 'namespace=~"$namespace"'
"""Of every series: a namespace is one installation."""


@dataclass(frozen=True)
class Panel:
    """A chart: PromQL by the legend of its lines, and the unit of its axis as Grafana calls it.

    Attributes:
        format: of the answer; "heatmap" makes single buckets of cumulative ones.
        shows: what a stat panel has in large letters: its value, or the legend.
    """

    title: str
    unit: str
    lines: dict[str, str]
    kind: str = "timeseries"
    description: str = ""
    format: str = "time_series"
    shows: str = "auto"


def series(name: str, where: str = "") -> str:
    """The series of a metric in the chosen namespaces; `where` is more of its labels."""
    return f"{name}{{{', '.join(part for part in (NAMESPACE, where) if part)}}}"


def total(gauge: str, where: str = "") -> str:
    """Over all replicas."""
    return f"sum({series(gauge, where)})"


def rate(counter: str, by: str = "", where: str = "") -> str:
    """Per second, summed over replicas."""
    return f"sum{f' by ({by})' if by else ''} (rate({series(counter, where)}[{RATE}]))"


def ratio(part: str, whole: str) -> str:
    """One expression over another."""
    return f"{part} / {whole}"


def quantile(q: float, histogram: str, where: str = "", by: str = "le") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', by, where)})"


def quantiles(histogram: str, where: str = "") -> dict[str, str]:
    """Median, 95th and 99th percentile of a histogram."""
    return {f"p{round(100 * q)}": quantile(q, histogram, where) for q in (0.5, 0.95, 0.99)}


def by_revision(metric: str, where: str = "", more: str = "") -> str:
    """A metric of the model that is served, which all its replicas have alike."""
    return f"avg by (revision{more}) ({series(metric, where)})"


OVERVIEW = [
    Panel("Ready replicas", "short", {"ready": total("assay_engine_state", 'state="ready"')}, "stat"),
    Panel(
        "Model",
        "none",
        {"{{model}} {{revision}} {{precision}} on {{provider}}": series("assay_model_info")},
        "stat",
        shows="name",
    ),
    Panel("Requests by status", "reqps", {"{{status}}": rate("assay_http_requests_total", "status")}),
    Panel("Failed by a fault of the server", "reqps", {"{{code}}": rate("assay_request_faults_total", "code")}),
    Panel("Refused, by reason", "reqps", {"{{reason}}": rate("assay_requests_rejected_total", "reason")}),
    Panel("Time of /v1/score", "s", quantiles("assay_http_request_duration_seconds", 'route="/v1/score"')),
    Panel("Items scored", "short", {"{{outcome}}": rate("assay_samples_total", "outcome")}),
    Panel(
        "Tokens",
        "short",
        {"{{kind}}": rate("assay_tokens_total", "kind")},
        description="shared: spared by a common prefix",
    ),
    Panel("Resident memory", "bytes", {"{{instance}}": series("process_resident_memory_bytes")}),
]
QUEUE = [
    Panel(
        "Items that wait, and may",
        "short",
        {
            "wait": total("assay_queue_samples"),
            "most within a minute": total("assay_peak_samples"),
            "may": total("assay_queue_limit_samples"),
        },
    ),
    Panel("In batches", "short", {"{{instance}}": series("assay_inflight_samples")}),
    Panel("How full the queue is", "percentunit", {"{{instance}}": series("assay_saturation_ratio")}),
    Panel("Oldest waiting request", "s", {"{{instance}}": series("assay_queue_oldest_age_seconds")}),
    Panel(
        "Mean time by stage",
        "s",
        {
            "{{stage}}": ratio(
                rate("assay_stage_duration_seconds_sum", "stage"), rate("assay_stage_duration_seconds_count", "stage")
            ),
        },
    ),
    Panel("Time in the queue", "s", quantiles("assay_stage_duration_seconds", 'stage="queue"')),
    Panel("Items of a batch", "short", quantiles("assay_batch_samples")),
    Panel("Tokens of a batch", "short", quantiles("assay_batch_tokens")),
    Panel("Items of a request", "short", quantiles("assay_request_samples")),
    Panel("Tokens of an item", "short", quantiles("assay_input_tokens")),
    Panel("Open connections", "short", {"{{instance}}": series("assay_http_connections")}),
    Panel("Bodies held", "bytes", {"{{instance}}": series("assay_request_bodies_held_bytes")}),
]
REFERENCE_MEDIAN = by_revision("assay_score_reference", 'quantile="0.5"')
MEDIAN = quantile(0.5, "assay_score", by="revision, le")
SCORES = [
    Panel(
        "Scores, and those of held-out responses (dashed)",
        "none",
        {
            **{
                f"{{{{revision}}}} p{round(100 * q)}": quantile(q, "assay_score", by="revision, le")
                for q in (0.05, 0.5, 0.95)
            },
            "reference {{revision}} p{{quantile}}": by_revision(
                "assay_score_reference", 'quantile=~"0.05|0.5|0.95"', ", quantile"
            ),
        },
        description="A policy that learns raises its scores; one far from the dashed lines may have found a hole.",
    ),
    Panel(
        "Distance of the median from the reference",
        "none",
        {
            "{{revision}}: standard deviations": ratio(
                f"({MEDIAN} - {REFERENCE_MEDIAN})",
                by_revision("assay_score_reference_stddev"),
            )
        },
    ),
    Panel(
        "Distribution",
        "short",
        {"{{le}}": f"sum by (le) (increase({series('assay_score_bucket')}[{RATE}]))"},
        "heatmap",
        format="heatmap",
        description="Of one model; during a rollout choose what comes before or after it.",
    ),
    Panel(
        "Scores that are no numbers",
        "short",
        {"{{instance}}": f"increase({series('assay_scores_nonfinite_total')}[$__range])"},
    ),
    Panel(
        "Texts that were cut",
        "percentunit",
        {
            "share": ratio(rate("assay_samples_total", where='outcome="truncated"'), rate("assay_samples_total")),
        },
    ),
    Panel("Scores from the cache", "short", {"hits": rate("assay_score_cache_hits_total")}),
]
ENGINE = [
    Panel("State", "short", {"{{instance}} {{state}}": f"{series('assay_engine_state')} == 1"}),
    Panel(
        "Since the last batch",
        "s",
        {"{{instance}}": f"time() - {series('assay_engine_last_progress_timestamp_seconds')}"},
    ),
    Panel("Batches", "ops", {"{{instance}}": rate("assay_engine_batches_total", "instance")}),
    Panel("Failures", "ops", {"{{kind}}": rate("assay_engine_errors_total", "kind")}),
    Panel("Time of a batch", "s", quantiles("assay_stage_duration_seconds", 'stage="infer"')),
    Panel(
        "Attention: share of padding",
        "percentunit",
        {
            "padding": ratio(
                rate("assay_attention_cells_total", where='kind="padding"'), rate("assay_attention_cells_total")
            ),
        },
    ),
    Panel("Measured over predicted time", "none", {"{{instance}}": series("assay_cost_model_scale")}),
    Panel("On another provider than asked for", "short", {"{{instance}}": series("assay_provider_fallback")}),
    Panel("Processor time", "short", {"{{instance}}": rate("process_cpu_seconds_total", "instance")}),
    Panel("Open files", "short", {"{{instance}}": series("process_open_fds")}),
    Panel(
        "Loading and warming up",
        "s",
        {
            "{{instance}} load": series("assay_model_load_seconds"),
            "{{instance}} warm-up": series("assay_warmup_seconds"),
        },
    ),
]
DASHBOARDS = {
    "overview": ("Assay: overview", OVERVIEW),
    "queue": ("Assay: queue and batching", QUEUE),
    "scores": ("Assay: scores and drift", SCORES),
    "engine": ("Assay: engine", ENGINE),
}


def dashboard(name: str) -> dict[str, Any]:
    """The JSON that Grafana imports; panels stand two abreast."""
    title, panels = DASHBOARDS[name]
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "uid": f"assay-{name}",
        "title": title,
        "tags": ["assay"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                {
                    "name": "namespace",
                    "label": "Namespace",
                    "type": "query",
                    "datasource": source,
                    "query": "label_values(assay_build_info, namespace)",
                    "refresh": 2,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "links": [{"title": "Assay", "type": "dashboards", "tags": ["assay"], "asDropdown": True, "keepTime": True}],
        "panels": [
            {
                "id": number + 1,
                "type": panel.kind,
                "title": panel.title,
                "description": panel.description,
                "datasource": source,
                "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
                "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": _dashed(panel)},
                "options": _options(panel),
                "targets": [
                    {
                        "refId": chr(ord("A") + place),
                        "expr": expression,
                        "legendFormat": legend,
                        "datasource": source,
                        "format": panel.format,
                    }
                    for place, (legend, expression) in enumerate(panel.lines.items())
                ],
            }
            for number, panel in enumerate(panels)
        ],
    }


def _options(panel: Panel) -> dict[str, Any]:
    """Of the kind of panel."""
    if panel.kind == "stat":
        return {"textMode": panel.shows, "reduceOptions": {"calcs": ["lastNotNull"]}}
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": "none"}, "color": {"scheme": "Greys", "reverse": False}}
    return {}


def _dashed(panel: Panel) -> list[dict[str, Any]]:
    """Lines of a reference are dashed."""
    if not any(legend.startswith("reference") for legend in panel.lines):
        return []
    style = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 10]}}
    return [{"matcher": {"id": "byRegexp", "options": "/reference.*/"}, "properties": [style]}]


if __name__ == "__main__":
    for made in DASHBOARDS:
        text = json.dumps(dashboard(made), indent=2, ensure_ascii=False) + "\n"
        (FOLDER / f"{made}.json").write_text(text, encoding="utf-8")
