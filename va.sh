for LN in 16 32 64; do  LN=$LN /work/main/.venv/bin/python t7.py; done; LN=32 /work/main/.venv/bin/python t7.py -c
