"""One module for each group of routes; `synqx_dagster.api.app` mounts their routers."""
