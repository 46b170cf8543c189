"""What all benches share: the machine, processor time, progress, options, reports and plots."""
