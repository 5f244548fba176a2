//! What is seen from outside: /metrics, /healthz, /readyz.
