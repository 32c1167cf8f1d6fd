"""How the queue behaves under load: its real code, a virtual clock and an engine that is a cost model."""
