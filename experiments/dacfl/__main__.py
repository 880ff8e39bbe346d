from experiments import hosts

if __name__ == "__main__":
    raise SystemExit(hosts.paper_main("dacfl"))
