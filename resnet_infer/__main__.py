"""`python -m resnet_infer` is `resnet-infer`."""

from resnet_infer.cli.app import main

if __name__ == "__main__":
    main()
