from experiments import command

if __name__ == "__main__":
    raise SystemExit(command.paper_main("tinymim"))
