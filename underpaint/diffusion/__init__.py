"""What happens between noise and a finished latent: schedulers, batching by step, the denoiser. Numpy only."""
