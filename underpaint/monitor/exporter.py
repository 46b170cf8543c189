"""The monitor's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from underpaint.monitor.journal import Decision


class Exporter:
    """``underpaint_monitor_*``, at ``http://host:port/metrics``."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        """Raises OSError where the port is taken."""
        registry = CollectorRegistry()
        self._demand = Gauge("underpaint_monitor_demand", "Requests a second, as estimated", registry=registry)
        self._servers = Gauge("underpaint_monitor_servers", "Servers that answered", registry=registry)
        self._feasible = Gauge("underpaint_monitor_feasible", "1 where the SLO can be kept", registry=registry)
        self._shares = Gauge("underpaint_monitor_share", "Planned share of requests", ["kind"], registry=registry)
        self._decisions = Counter(
            "underpaint_monitor_decisions", "Periods, by what came of them", ["result"], registry=registry
        )
        self._server, self._thread = start_http_server(port, host, registry)

    def tell(self, decision: Decision) -> None:
        self._demand.set(decision.arrivals_per_s)
        self._servers.set(decision.servers)
        self._feasible.set(decision.allocation.feasible)
        self._shares.labels("hard").set(decision.allocation.direct)
        self._shares.labels("deferred").set(decision.allocation.deferred)
        result = "failed" if decision.problems else "applied" if decision.applied else "unchanged"
        self._decisions.labels(result).inc()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
