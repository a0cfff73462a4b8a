"""What the fork server imports before all else; importing it ties the process to its parent, so no other does."""

from apo_bench.execution.lifeline import become_server

become_server()
