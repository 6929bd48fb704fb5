"""What a candidate costs and keeps: metrics, fidelity, cost, efficiency, selection."""
