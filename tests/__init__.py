"""The tests of Seawall: unit, contract, integration, simulation, acceptance, tidy, bench."""
