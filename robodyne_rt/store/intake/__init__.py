"""The way in: from a submission to the commit, the spool or the dead letters.

Submissions ──▶ Intake ◀──decisions── core.spooling.SpoolingLedger
                 │   ├──▶ Admission ──▶ Acknowledged, OptimisticOverlay ──▶ Predictor ──▶ StandIn
                 │   └──▶ Spool (a thread)
                 ▼
              Writer (a thread) ──▶ Committer, SpoolDrain, log.LogReader, Backup ──▶ Report ──▶ Intake
"""
