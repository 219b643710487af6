"""What is said to W&B's server, in GraphQL.

The statements name what W&B's own agents name, in wandb 0.19 as in 0.31, and ask for no more than
is used.
"""

from __future__ import annotations

MAKE = """
mutation UpsertSweep($config: String, $description: String, $entityName: String,
                     $projectName: String) {
  upsertSweep(input: {config: $config, description: $description, entityName: $entityName,
                      projectName: $projectName}) {
    sweep { name project { id name entity { id name } } }
    configValidationWarnings
  }
}
"""
CANCEL = """
mutation UpsertSweep($id: ID, $state: String, $entityName: String, $projectName: String) {
  upsertSweep(input: {id: $id, state: $state, entityName: $entityName,
                      projectName: $projectName}) { sweep { name } }
}
"""
SWEEP = """
query GetSweep($name: String!, $project: String, $entity: String) {
  project(name: $project, entityName: $entity) {
    name entityName
    sweep(sweepName: $name) { id name state description config }
  }
}
"""
RUNS = """
query SweepWithRuns($entity: String, $project: String, $sweep: String!) {
  project(name: $project, entityName: $entity) {
    sweep(sweepName: $sweep) { id name state runs { edges { node { name state } } } }
  }
}
"""
REGISTER = """
mutation CreateAgent($host: String!, $projectName: String, $entityName: String, $sweep: String!) {
  createAgent(input: {host: $host, projectName: $projectName, entityName: $entityName,
                      sweep: $sweep}) { agent { id } }
}
"""
HEARTBEAT = """
mutation Heartbeat($id: ID!, $metrics: JSONString, $runState: JSONString) {
  agentHeartbeat(input: {id: $id, metrics: $metrics, runState: $runState}) {
    agent { id }
    commands
  }
}
"""
RUN = """
query Run($project: String!, $entity: String!, $name: String!) {
  project(name: $project, entityName: $entity) {
    run(name: $name) { id name state config summaryMetrics }
  }
}
"""
RESULT = """
mutation UpsertBucket($name: String, $project: String, $entity: String, $config: JSONString,
                      $sweep: String, $summaryMetrics: JSONString) {
  upsertBucket(input: {name: $name, modelName: $project, entityName: $entity, config: $config,
                       sweep: $sweep, summaryMetrics: $summaryMetrics}) { bucket { id name } }
}
"""
