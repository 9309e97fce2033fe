"""Engine replicas on a Ray cluster, one autoscaling Serve deployment for each model."""
